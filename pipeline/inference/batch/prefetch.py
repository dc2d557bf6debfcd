"""The next scan is read while this one is computed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from kits_unet3d.transforms import Recipe

from ...io import Found, ReadOptions
from ...io.scan import Scan, read_scan
from ..scan_memory import needed_bytes, require_memory, stored_bytes


class ScansAhead:
    """Reads scans one ahead of where they are used, and refuses those that need too much memory.

    Args:
        scans: in order.
        options: for reading.
        recipe: of the model, which decides how much a scan needs.
        limit: bytes of memory a scan may need; where this one and the next do not fit together, the next
            waits.
    """

    def __init__(self, scans: Sequence[Found], options: ReadOptions, recipe: Recipe, limit: float) -> None:
        self.scans, self.options, self.recipe, self.limit = scans, options, recipe, limit
        self._idle, self._busy = Event(), 0.0

    def __iter__(self) -> Generator[tuple[Found, Scan | Exception], None, None]:
        """Each with its scan, or the error that kept it from being read. Close the iterator when leaving early."""
        with ThreadPoolExecutor(1) as pool:
            try:
                waiting = [pool.submit(self._read, found) for found in self.scans[:1]]
                for number, found in enumerate(self.scans):
                    self._idle.set()
                    scan = waiting.pop().result()
                    self._idle.clear()
                    self._busy = 0.0
                    if isinstance(scan, Scan):
                        self._busy = needed_bytes(scan.grid.shape, scan.affine, self.recipe)
                    waiting += [pool.submit(self._read, after) for after in self.scans[number + 1 : number + 2]]
                    yield found, scan
                    del scan
            finally:
                self._idle.set()

    def _read(self, found: Found) -> Scan | Exception:
        def admit(shape: tuple[int, int, int], affine: np.ndarray) -> None:
            require_memory(needed_bytes(shape, affine, self.recipe), self.limit, found.path)
            if self._busy + stored_bytes(shape) > self.limit:
                self._idle.wait()

        try:
            return read_scan(found, self.options, admit)
        except Exception as error:  # it belongs to this scan, and is told when its turn comes
            return error
