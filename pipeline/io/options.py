"""What a user may say about scans whose files say it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..runtime.errors import UsageError
from .voxels import believable

#: Is told shape and affine of a scan before its voxels are read, and may raise to leave them unread.
Admission = Callable[[tuple[int, int, int], np.ndarray], None]


@dataclass(frozen=True)
class ReadOptions:
    """Ways out of what would otherwise be refused.

    Attributes:
        volume: which volume of a 4-D file, counted from 1; others have but one.
        hu_offset: added to every voxel.
        spacing_mm: size of a voxel along the file's three axes, where the header's is missing or not believable.
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

    def spacing_instead_of(
        self, stored_mm: Sequence[float] | np.ndarray, warnings: list[str]
    ) -> tuple[float, float, float] | None:
        """``spacing_mm``, if the size that a file tells (NaN or 0 if it tells none) can be none.

        A whole batch is given one size, and a scan that knows its own better must keep it; ``warnings`` tells so.
        """
        if self.spacing_mm is None or not believable(stored_mm):
            return self.spacing_mm
        told = " x ".join(f"{size:g}" for size in stored_mm)
        if not np.allclose(stored_mm, self.spacing_mm, rtol=0.01):
            warnings.append(f"--spacing is not used: the file itself tells a voxel of {told} mm, which can be")
        return None


class Stored(NamedTuple):
    """A volume as a file holds it: voxels (X, Y, Z) in HU, affine to RAS mm, the format's header, warnings."""

    voxels: np.ndarray
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]
