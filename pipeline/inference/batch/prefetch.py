"""Read the next scan while the current one is predicted."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from kits_unet3d.transforms import PreprocessingParameters

from ...io import Found, ReadOptions
from ...io.scan import Scan, read_scan
from ..scan_memory import needed_bytes, require_memory, stored_bytes


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
        """Yield each found scan with its content or its reading error. Close the iterator when leaving early."""
        with ThreadPoolExecutor(1) as pool:
            try:
                waiting = [pool.submit(self._read, found) for found in self.scans[:1]]
                for number, found in enumerate(self.scans):
                    self._idle.set()
                    scan = waiting.pop().result()
                    self._idle.clear()
                    self._busy = 0.0
                    if isinstance(scan, Scan):
                        self._busy = needed_bytes(scan.grid.shape, scan.affine, self.parameters)
                    waiting += [pool.submit(self._read, after) for after in self.scans[number + 1 : number + 2]]
                    yield found, scan
                    del scan
            finally:
                self._idle.set()

    def _read(self, found: Found) -> Scan | Exception:
        def admit(shape: tuple[int, int, int], affine: np.ndarray) -> None:
            require_memory(needed_bytes(shape, affine, self.parameters), self.limit, found.path)
            if self._busy + stored_bytes(shape) > self.limit:
                self._idle.wait()

        try:
            return read_scan(found, self.options, admit)
        except Exception as error:  # it belongs to this scan and is reported in its turn
            return error
