"""Read the next scan while the current one is predicted, if the memory suffices for both."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np

from kits_unet3d.transforms import PreprocessingParameters
from kits_unet3d.transforms.resample import resampled_shape

from ..io import Found, Grid, ReadOptions
from ..io.scan import Scan, read_scan
from ..io.scan_files import content_hash, state_of
from ..runtime.errors import CaseError
from ..runtime.memory import GB, LIBRARIES


class ScansAhead:
    """Read scans one ahead of their use, and refuse those that need too much memory.

    Args:
        scans: in order.
        options: for reading.
        parameters: preprocessing parameters of the model, which decide how much memory a scan needs.
        limit: bytes of memory a scan may need. The next scan waits if both do not fit together.
    """

    def __init__(
        self, scans: Sequence[Found], options: ReadOptions, parameters: PreprocessingParameters, limit: float
    ) -> None:
        self.scans, self.options, self.parameters, self.limit = scans, options, parameters, limit
        self._idle, self._busy = Event(), 0.0

    def __iter__(self) -> Generator[tuple[Found, Scan | Exception], None, None]:
        """Yield each found scan with its voxels or its reading error. Close the iterator when leaving early."""
        with ThreadPoolExecutor(1) as pool:
            try:
                waiting = [pool.submit(self._take, found) for found in self.scans[:1]]
                for number in range(len(self.scans)):
                    self._idle.set()
                    found, scan = waiting.pop().result()
                    self._idle.clear()
                    self._busy = 0.0
                    if isinstance(scan, Scan):
                        self._busy = needed_bytes(scan.grid.shape, scan.affine, self.parameters)
                    waiting += [pool.submit(self._take, after) for after in self.scans[number + 1 : number + 2]]
                    yield found, scan
                    del scan
            finally:
                self._idle.set()

    def _take(self, found: Found) -> tuple[Found, Scan | Exception]:
        """Read a scan, and note content and state of its files; they must not change meanwhile."""
        state = state_of(found.files)
        scan = self._read(found)
        if isinstance(scan, Exception):
            return found, scan
        try:
            content = content_hash(found.files)
        except OSError as error:
            return found, error
        if state_of(found.files) != state:
            return found, CaseError(f"{found.path}: was changed while it was read; run the command again")
        return replace(found, content=content, state=state), scan

    def _read(self, found: Found) -> Scan | Exception:
        def admit(shape: tuple[int, int, int], affine: np.ndarray) -> None:
            require_memory(needed_bytes(shape, affine, self.parameters), self.limit, found.path)
            if self._busy + stored_bytes(shape) > self.limit:
                self._idle.wait()

        try:
            return read_scan(found, self.options, admit)
        except Exception as error:  # it belongs to this scan and is reported in its turn
            return error


def stored_bytes(shape: Sequence[int]) -> float:
    """Return the most bytes that a scan's voxels can take (float32); int16 voxels take half."""
    return float(np.prod(shape, dtype=np.float64)) * 4


def needed_bytes(shape: Sequence[int], affine: np.ndarray, parameters: PreprocessingParameters) -> float:
    """Return the resident memory of predicting one scan, in bytes, without the network's own for its windows.

    Args:
        shape: (X, Y, Z) of the scan.
        affine: 4×4 to RAS millimetres.
        parameters: preprocessing parameters of the model; their voxel size sets the size of the network's volume.
    """
    voxels = float(np.prod(shape, dtype=np.float64))
    world = np.abs(np.asarray(affine)[:3, :3])
    extent = world @ np.asarray(shape, dtype=np.float64)  # of the bounding box along the world's axes
    spacing = world.max(axis=1)
    boxed = np.ceil(extent / spacing)
    seen = resampled_shape([int(n) for n in boxed[::-1]], [float(s) for s in spacing[::-1]], parameters.spacing_mm)
    # With the windows' padding: at least to the window, otherwise by up to a stride.
    network = float(
        np.prod([max(n + s, r) for n, s, r in zip(seen, parameters.stride, parameters.roi_size, strict=True)])
    )
    stored = stored_bytes(shape)
    # An oblique scan is resampled from a float32 copy.
    x, y, z = shape
    rotated = 4 * voxels if Grid(Path(), "", (x, y, z), np.asarray(affine)).oblique else 0.0
    resampling = stored + rotated + 4 * float(np.prod(boxed)) + 4 * network
    windows = stored + 4 * network * (len(parameters.classes) + 4)
    restoring = stored + 4 * network * len(parameters.classes) + 2 * voxels
    return LIBRARIES + max(resampling, windows, restoring)


def require_memory(need: float, limit: float, path: str | Path) -> None:
    """Raise a CaseError with the numbers if ``need`` is above ``limit``, both in bytes."""
    if need > limit:
        raise CaseError(
            f"{path}: needs about {need / GB:.1f} GB of memory, more than the {limit / GB:.1f} GB allowed; "
            "allow more with --max-memory, or crop the scan"
        )
