"""What a user may say about scans whose files say it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...errors import UsageError

#: Is told shape and affine of a scan before its voxels are read, and may raise to leave them unread.
Admission = Callable[[tuple[int, int, int], np.ndarray], None]


@dataclass(frozen=True)
class ReadOptions:
    """Ways out of what would otherwise be refused.

    Attributes:
        volume: which volume of a 4-D file, counted from 1.
        hu_offset: added to every voxel.
        spacing_mm: size of a voxel along the file's three axes, instead of the header's.
        trust: ``"sform"`` or ``"qform"``, where a NIfTI's two forms disagree.
        series: a DICOM series' number, UID or description, or ``"all"``.
        allow_gaps: put DICOM slices with gaps onto an even grid.
    """

    volume: int | None = None
    hu_offset: float = 0.0
    spacing_mm: tuple[float, float, float] | None = None
    trust: str | None = None
    series: str | None = None
    allow_gaps: bool = False

    def __post_init__(self) -> None:
        if self.volume is not None and self.volume < 1:
            raise UsageError(f"volume must be 1 or more, got {self.volume}")
        if self.trust not in (None, "sform", "qform"):
            raise UsageError(f"trust must be sform or qform, got {self.trust}")
        if self.spacing_mm is not None and not (
            len(self.spacing_mm) == 3 and all(0 < s < float("inf") for s in self.spacing_mm)
        ):
            raise UsageError(f"spacing must be 3 positive numbers in mm, got {self.spacing_mm}")


class Stored(NamedTuple):
    """A volume as a file holds it: voxels (X, Y, Z) in HU, affine to RAS mm, the format's header, warnings."""

    voxels: np.ndarray
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]
