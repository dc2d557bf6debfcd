"""Read label maps: whole numbers on a grid, in any format that scans come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import CaseError
from .scan import Volume, read_volume
from .segments import Segment, read_segments
from .voxels import ReadOptions, require_numbers

#: A float may be this far from a whole number: programs that resample or save as floats leave such traces.
TOLERANCE = 1e-3
#: The same for integers that are scaled over all their values, as nibabel saves floats: half a step, but not more.
MOST_TOLERANCE = 1e-2
#: The largest label value; beyond it a file holds something else.
LARGEST = 65535


@dataclass(frozen=True, eq=False)
class LabelMap(Volume):
    """Hold a label map: ``voxels`` (X, Y, Z) are uint8, or uint16 where a value is above 255.

    Attributes:
        segments: classes by value, as the table in its file describes them; empty without a table.
    """

    segments: tuple[Segment, ...] = ()


class Labels:
    """Collect a volume of labels, a few slices at a time, and check that they are whole numbers.

    Args:
        path: for error messages.
        shape: (X, Y, Z).
        stored: type of the values in the file.
        slope, intercept: label = stored · slope + intercept.
        offset: is not used; labels have no HU.

    Raises:
        CaseError: if values of that type cannot be labels.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        stored: np.dtype,
        slope: float = 1.0,
        intercept: float = 0.0,
        offset: float | None = None,
    ) -> None:
        require_numbers(path, stored)
        self.path, self.slope, self.intercept = path, slope, intercept
        self.whole = stored.kind in "iu" and slope == 1 and float(intercept).is_integer()
        half_a_step = 0.51 * abs(slope) if stored.kind in "iu" else 0.0
        self.tolerance = min(max(TOLERANCE, half_a_step), MOST_TOLERANCE)
        try:
            self.voxels = np.empty(tuple(shape), np.uint8, order="F")
        except (MemoryError, ValueError) as error:
            raise CaseError(f"{path}: {tuple(shape)} voxels do not fit into memory; correct the header") from error

    def put(self, first: int, slices: np.ndarray) -> None:
        """Take slices (X, Y, n) as stored, the first being number ``first`` along Z.

        Raises:
            CaseError: if a value is not a whole number from 0 to 65535.
        """
        values = slices
        if not self.whole:
            scaled = slices.astype(np.float64) * self.slope + self.intercept
            values = np.rint(scaled)
            far = ~(np.abs(scaled - values) <= self.tolerance)  # NaN is far from everything
            if far.any():
                raise CaseError(
                    f"{self.path}: contains {scaled[far][0]:g}, but labels are whole numbers; save it as integers, "
                    "resampled by nearest neighbour"
                )
        elif self.intercept:
            values = slices.astype(np.int64) + int(self.intercept)
        lowest, highest = values.min(), values.max()
        if lowest < 0 or highest > LARGEST:
            raise CaseError(
                f"{self.path}: contains the values {lowest:g} to {highest:g}, but labels are 0 to {LARGEST}; "
                "name a label map, not a scan"
            )
        if highest > 255 and self.voxels.dtype == np.uint8:
            self.voxels = self.voxels.astype(np.uint16)
        self.voxels[:, :, first : first + slices.shape[2]] = values

    def finished(self) -> tuple[np.ndarray, list[str]]:
        """Return the labels, and no warnings."""
        return self.voxels, []


def read_labels(source: str | Path, options: ReadOptions | None = None) -> LabelMap:
    """Read and check a label map: NIfTI, NRRD or MetaImage.

    Values may be stored as integers, as floats within 1e-3 of a whole number, or as scaled integers.

    Args:
        source: its file.
        options: allow files that would otherwise be refused.

    Raises:
        CaseError: naming the file and the reason, if it cannot be read or holds anything but whole numbers from 0 to
            65535.
    """
    if Path(source).is_dir():
        raise CaseError(f"{source}: is a directory; name the file of a label map")
    grid, stored = read_volume(source, options or ReadOptions(), Labels)
    return LabelMap(grid, stored.voxels, stored.warnings, tuple(read_segments(grid.path)))
