"""Define the options for scans whose files have wrong or missing metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..runtime.errors import UsageError
from .voxels import believable

#: Receives shape and affine of a scan before its voxels are read; may raise to prevent reading.
Admission = Callable[[tuple[int, int, int], np.ndarray], None]


#: Largest offset of HU that can be meant.
LARGEST_OFFSET = 100_000


@dataclass(frozen=True)
class ReadOptions:
    """Hold options that allow scans which would otherwise be refused.

    Attributes:
        volume: volume of a 4-D file, counted from 1; other files have only one.
        hu_offset: value added to every voxel; 0, unlike None, states that the values are HU, whatever they look like.
        spacing_mm: voxel size along the file's three axes, used if the header's is missing or implausible.
        trust: ``"sform"`` or ``"qform"``, used if the two forms of a NIfTI file disagree.
        series: number, UID or description of a DICOM series, or ``"all"``.
        allow_gaps: put DICOM slices with gaps onto an even grid.
    """

    volume: int | None = None
    hu_offset: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    trust: str | None = None
    series: str | None = None
    allow_gaps: bool = False

    def __post_init__(self) -> None:
        if self.volume is not None and not (type(self.volume) is int and self.volume >= 1):
            raise UsageError(f"volume must be a whole number of 1 or more, got {self.volume!r}")
        if not isinstance(self.allow_gaps, bool):
            raise UsageError(f"allow_gaps must be true or false, got {self.allow_gaps!r}")
        if self.trust not in (None, "sform", "qform"):
            raise UsageError(f"trust must be sform or qform, got {self.trust}")
        if self.hu_offset is not None and not (
            type(self.hu_offset) in (int, float) and abs(self.hu_offset) <= LARGEST_OFFSET  # NaN neither
        ):
            raise UsageError(f"hu-offset must be a number of HU up to {LARGEST_OFFSET}, got {self.hu_offset!r}")
        if self.spacing_mm is not None and not (
            len(self.spacing_mm) == 3 and all(0 < s < float("inf") for s in self.spacing_mm)
        ):
            raise UsageError(f"spacing must be 3 positive numbers in mm, got {self.spacing_mm}")

    def spacing_instead_of(
        self, stored_mm: Sequence[float] | np.ndarray, warnings: list[str]
    ) -> tuple[float, float, float] | None:
        """Return ``spacing_mm`` if the file's voxel size (NaN or 0 if missing) is implausible, else None.

        One size applies to a whole batch, so a scan with a plausible size keeps its own. ``warnings`` reports it.
        """
        if self.spacing_mm is None or not believable(stored_mm):
            return self.spacing_mm
        told = " x ".join(f"{size:g}" for size in stored_mm)
        if not np.allclose(stored_mm, self.spacing_mm, rtol=0.01):
            warnings.append(f"--spacing is ignored: the file contains a plausible voxel size of {told} mm")
        return None


class Stored(NamedTuple):
    """Hold a volume as read: voxels (X, Y, Z) in HU, affine to RAS mm, the format's header, warnings."""

    voxels: np.ndarray
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]
