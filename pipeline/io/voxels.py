"""Convert stored voxels into HU, a few slices at a time; define the options for files with wrong metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..runtime.errors import CaseError, UsageError

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


#: HU of air, which replaces all lower values; and the largest HU of a 12-bit scanner.
AIR, DENSEST = -1024, 3071
#: Voxels below this are padding that a scanner or a program put around the image.
PADDING = -1500
#: Fraction of voxels that may be non-finite.
FEW = 0.01
#: Unsigned 16-bit values above this are wrapped negative values, where stored values are HU.
WRAPPED = 60000
#: Values that span fewer HU than this, near 0, are labels, or intensities scaled to 0 to 1 or to z-scores.
NARROW = 50
#: Largest entry of an affine, in mm; a scan farther from its origin has a damaged header.
FARTHEST_MM = 1e6
#: Values below this are air or lung, so they are in HU already.
AIRY = -500


class Hounsfield:
    """Collect a volume and check that it is CT; store it as int16 if the file holds whole HU, else as float32.

    Args:
        path: for error messages.
        shape: (X, Y, Z).
        stored: type of the values in the file.
        slope, intercept, offset: HU = stored · slope + intercept + offset. An offset of 0, unlike None, states that
            the values are HU, whatever they look like.

    Raises:
        CaseError: if values of that type cannot be CT, or the volume does not fit into memory.
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
        self.stated, offset = offset == 0, offset or 0.0
        require_numbers(path, stored)
        self.path, self.slope, self.shift, self.offset = path, slope, intercept + offset, offset
        # Scaled values are not HU as stored, so they cannot be wrapped.
        self.may_wrap = stored.kind == "u" and stored.itemsize == 2 and (slope, intercept) == (1, 0)
        try:
            self.voxels = np.empty(tuple(shape), self.type_for(stored), order="F")
        except (MemoryError, ValueError) as error:
            raise CaseError(f"{path}: {tuple(shape)} voxels do not fit into memory; correct the header") from error
        # An offset that a scan does not need must not turn its air into padding.
        self.floor = PADDING + min(offset, 0.0)
        self.lowest, self.highest, self.thinnest = np.inf, -np.inf, np.inf
        self.strange = self.padding = self.wrapped = 0

    def type_for(self, stored: np.dtype) -> type[np.number]:
        """Return the type of the volume for values stored as ``stored``."""
        whole = stored.kind in "iu" and self.slope == 1 and float(self.shift).is_integer()
        return np.int16 if whole else np.float32

    def put(self, first: int, slices: np.ndarray) -> None:
        """Add slices (X, Y, n) as stored; the first has index ``first`` along Z."""
        strange = self.strange
        if slices.dtype.kind == "f" or slices.dtype == np.uint64:  # the largest uint64 would wrap to negative int64
            values = self._finite(slices.astype(np.float64))
        else:
            values = slices.astype(np.int64 if slices.dtype.itemsize > 2 else np.int32)
            if self.may_wrap:
                wrapped = values > WRAPPED
                self.wrapped += int(wrapped.sum())
                values -= wrapped * 65536
        if self.slope != 1:
            values = values * self.slope
        if self.shift:
            values = values + (int(self.shift) if values.dtype.kind == "i" and not self.shift % 1 else self.shift)
        self.lowest, self.highest = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
        outside = values < self.floor
        self.padding += int(outside.sum()) - (self.strange - strange)
        # Neither padding nor non-finite values show that there is air.
        self.thinnest = min(self.thinnest, float(values.min(where=~outside, initial=int(ABSURD))))
        # Clip before any resampling, which would smear padding of -3024 into the body.
        np.clip(values, AIR, DENSEST, out=values)
        if values.dtype.kind == "f" and self.voxels.dtype.kind == "i":
            values = np.rint(values)
        self.voxels[:, :, first : first + slices.shape[2]] = values

    def _finite(self, values: np.ndarray) -> np.ndarray:
        strange = ~np.isfinite(values)
        count = int(strange.sum())
        if count:
            self.strange += count
            values[strange] = (self.floor + PADDING - self.shift) / self.slope
        return values

    def finished(self) -> tuple[np.ndarray, list[str]]:
        """Return the volume in HU, within [AIR, DENSEST], and warnings for the user.

        Raises:
            CaseError: if it cannot be CT in HU.
        """
        warnings = []
        if self.strange >= FEW * self.voxels.size:
            raise CaseError(
                f"{self.path}: {self.strange} of {self.voxels.size} voxels are not finite numbers; export it again"
            )
        if max(-self.lowest, self.highest) > ABSURD:
            raise CaseError(f"{self.path}: values from {self.lowest:g} to {self.highest:g} are not HU; export it again")
        if not self.stated:
            self._require_range()
        if self.offset and self.thinnest - self.offset < AIRY:
            stored = self.thinnest - self.offset
            warnings.append(f"it has air at {stored:g} already, but --hu-offset added {self.offset:g} to all")
        if self.strange:
            warnings.append(f"{self.strange} voxels were not finite numbers and were set to air")
        if self.wrapped:
            warnings.append(f"{self.wrapped} unsigned voxels above {WRAPPED} were read as wrapped negative values")
        if self.padding:
            warnings.append(f"{self.padding} voxels below {self.floor:g} HU are padding and were set to air")
        return self.voxels, warnings

    def _require_range(self) -> None:
        thinnest = min(self.thinnest, self.highest)
        if self.highest - thinnest < NARROW and thinnest > -NARROW:  # a volume of nothing but air is CT
            raise CaseError(
                f"{self.path}: values from {thinnest:g} to {self.highest:g} are labels or scaled intensities, not HU; "
                "name the CT in HU, or state with --hu-offset=0 that they are HU"
            )
        if thinnest >= -NARROW:  # fat alone has less
            raise CaseError(
                f"{self.path}: values from {thinnest:g} to {self.highest:g} without any air near -1000 are not HU; if "
                "they are HU plus a constant, correct it with --hu-offset (often --hu-offset=-1024); if they are HU, "
                "state it with --hu-offset=0"
            )


class Collector(Protocol):
    """Collect a volume from slices as a file stores them; :class:`Hounsfield` does so for CT."""

    def put(self, first: int, slices: np.ndarray) -> None:
        """Take slices (X, Y, n), the first being number ``first`` along Z."""

    def finished(self) -> tuple[np.ndarray, list[str]]:
        """Return the volume and the warnings."""


#: Make a collector: path, shape (X, Y, Z), stored type, slope, intercept, offset.
Collect = Callable[..., Collector]


def steps(shape: Sequence[int], itemsize: int, budget: int = 1 << 24) -> list[tuple[int, int]]:
    """Return ranges of slices along Z that hold about ``budget`` bytes each."""
    count = max(1, budget // max(1, shape[0] * shape[1] * itemsize))
    return [(start, min(start + count, shape[2])) for start in range(0, shape[2], count)]


#: Limits of a plausible voxel size in mm.
SMALLEST_MM, LARGEST_MM = 0.05, 20.0
#: Numbers beyond this are not HU, not even wrapped or padding.
ABSURD = 1e5


def believable(spacing_mm: Sequence[float] | np.ndarray) -> bool:
    """Return whether a voxel size is plausible."""
    return all(SMALLEST_MM <= size <= LARGEST_MM for size in spacing_mm)


def require_regular(path: Path, affine: np.ndarray) -> None:
    """Raise a CaseError if an affine (4×4) is not finite or puts different voxels at one place."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not np.isfinite(affine).all()
        or np.abs(affine).max() > FARTHEST_MM
        or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * np.prod(spacing)
    ):
        raise CaseError(f"{path}: its affine is singular or far away, so the positions are unknown; export it again")


def check_geometry(path: Path, shape: Sequence[int], affine: np.ndarray, way_out: str = "") -> None:
    """Raise a CaseError if a scan's geometry is not plausible; ``way_out`` follows "correct the header"."""
    if min(shape) < 2:
        raise CaseError(f"{path}: has shape {tuple(shape)}; a scan has three axes of several voxels each")
    require_regular(path, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not believable(spacing):
        raise CaseError(
            f"{path}: a voxel size of {' x '.join(f'{s:g}' for s in spacing)} mm is not plausible "
            f"({SMALLEST_MM} to {LARGEST_MM} mm); correct the header{way_out}"
        )


def require_numbers(path: Path, stored: np.dtype) -> None:
    """Raise a CaseError if values of that type cannot be CT."""
    if stored.kind not in "iuf":
        kind = {"c": "complex", "V": "colour"}.get(stored.kind, "unknown")
        raise CaseError(f"{path}: its voxels are {kind} ({stored}), not numbers in HU; it is not CT")
