"""Convert stored voxels into HU, a few slices at a time; define the options for files with wrong metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..runtime.errors import CaseError, UsageError
from .grid import believable

#: Receives shape and affine of a scan before its voxels are read; may raise to prevent reading.
Admission = Callable[[tuple[int, int, int], np.ndarray], None]


#: Largest offset of HU that is accepted.
LARGEST_OFFSET = 100_000


@dataclass(frozen=True)
class ReadOptions:
    """Hold options that allow scans which would otherwise be refused.

    Attributes:
        volume: volume of a 4-D file, counted from 1; other files have only one.
        hu_offset: value added to every voxel. 0 states that the values are HU, even if they do not look like HU; None
            does not state this.
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
#: In an unscaled file of unsigned 16-bit values, larger values are negative HU stored modulo 65536.
WRAPPED = 60000
#: Values that span fewer HU than this, near 0, are labels, or intensities scaled to 0 to 1 or to z-scores.
NARROW = 50
#: Values below this are air or lung, so they are in HU already.
AIRY = -500
#: Bone and metal have more HU than this. In four real scans they were below 0.01 of the voxels that are neither
#: air nor lung; after adding 1024 to the same scans, 0.34 to 0.63 were above it.
BONE = 700
MOST_BONE = 0.25
#: Values below PADDING are padding if the most common ones, this many, make up at least half of them.
LEVELS = 3
#: A volume of so many voxels or more with fewer distinct HU is a label map or a drawing. Real scans have over 900 in
#: one slice; noise of 5 HU alone spreads a uniform phantom over 40. Smaller volumes are only made for tests.
FEWEST_VALUES, ORDINARY = 32, 32**3
#: Largest number of padding voxels of a chunk that are kept, to count their values.
REMEMBERED = 1000
#: Largest value of 16 bits; larger ones are wrapped or not HU.
LARGEST = 32767


class Hounsfield:
    """Collect a volume and check that it is CT; store it as int16 if the file holds whole HU, else as float32.

    Args:
        path: for error messages.
        shape: (X, Y, Z).
        stored: type of the values in the file.
        slope, intercept, offset: HU = stored · slope + intercept + offset. See ``hu_offset`` of :class:`ReadOptions`
            for the offsets 0 and None.

    Raises:
        CaseError: if values of that type cannot be CT, or the volume does not fit into memory.
    """

    #: Whether values beyond [AIR, DENSEST] are clipped.
    clips = True

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        stored: np.dtype,
        slope: float = 1.0,
        intercept: float = 0.0,
        offset: float | None = None,
    ) -> None:
        self.stated_as_hu, offset = offset == 0, offset or 0.0
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
        self.lowest, self.highest, self.lowest_unpadded = np.inf, -np.inf, np.inf
        self.not_finite = self.padding = self.wrapped = self.bone = self.body = 0
        self.outside: list[np.ndarray] = []
        self.present = np.zeros(DENSEST - AIR + 1, bool)

    def type_for(self, stored: np.dtype) -> type[np.number]:
        """Return the type of the volume for values stored as ``stored``."""
        whole = stored.kind in "iu" and self.slope == 1 and float(self.shift).is_integer()
        return np.int16 if whole else np.float32

    def put(self, first: int, slices: np.ndarray) -> None:
        """Add slices (X, Y, n) as stored; the first has index ``first`` along Z."""
        strange = self.not_finite
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
        count = int(outside.sum())
        self.padding += count - (self.not_finite - strange)
        if count:
            self.outside.append(values[outside][:: 1 + count // REMEMBERED])
        self.body += int((values > AIRY).sum())
        self.bone += int((values > BONE).sum())
        # Neither padding nor non-finite values show that there is air.
        self.lowest_unpadded = min(self.lowest_unpadded, float(values.min(where=~outside, initial=int(ABSURD))))
        # Clip before any resampling, which would smear padding of -3024 into the body.
        np.clip(values, AIR, DENSEST, out=values)
        if self.present.sum() < FEWEST_VALUES:  # the first slices usually have more
            self.present[np.rint(values).astype(np.intp) - AIR] = True
        if values.dtype.kind == "f" and self.voxels.dtype.kind == "i":
            values = np.rint(values)
        self.voxels[:, :, first : first + slices.shape[2]] = values

    def _finite(self, values: np.ndarray) -> np.ndarray:
        strange = ~np.isfinite(values)
        count = int(strange.sum())
        if count:
            self.not_finite += count
            values[strange] = (self.floor + PADDING - self.shift) / self.slope
        return values

    def finished(self) -> tuple[np.ndarray, list[str]]:
        """Return the volume in HU, within [AIR, DENSEST], and warnings for the user.

        Raises:
            CaseError: if it cannot be CT in HU.
        """
        warnings = []
        if self.not_finite >= FEW * self.voxels.size:
            raise CaseError(
                f"{self.path}: {self.not_finite} of {self.voxels.size} voxels are not finite numbers; export it again"
            )
        if max(-self.lowest, self.highest) > ABSURD:
            raise CaseError(f"{self.path}: values from {self.lowest:g} to {self.highest:g} are not HU; export it again")
        if not self.stated_as_hu:
            self._require_range()
            self._require_air_and_tissue()
        if self.offset and self.lowest_unpadded - self.offset < AIRY:
            stored = self.lowest_unpadded - self.offset
            warnings.append(f"it has air at {stored:g} already, but --hu-offset added {self.offset:g} to all")
        if self.not_finite:
            warnings.append(f"{self.not_finite} voxels were not finite numbers and were set to air")
        if self.wrapped:
            warnings.append(f"{self.wrapped} unsigned voxels above {WRAPPED} were read as wrapped negative values")
        if self.padding and self.clips:
            warnings.append(f"{self.padding} voxels below {self.floor:g} HU are padding and were set to air")
        return self.voxels, warnings

    def _require_range(self) -> None:
        thinnest = min(self.lowest_unpadded, self.highest)
        if self.highest - thinnest < NARROW and thinnest > -NARROW:  # a volume of nothing but air is CT
            raise CaseError(
                f"{self.path}: values from {thinnest:g} to {self.highest:g} are labels or scaled intensities, not HU; "
                "name the CT in HU, or state with --hu-offset=0 that they are HU"
            )
        count, wide = int(self.present.sum()), self.highest - thinnest >= NARROW
        if count < FEWEST_VALUES and self.voxels.size >= ORDINARY and wide:
            raise CaseError(
                f"{self.path}: its {self.voxels.size} voxels have only {count} different values, so they are labels, "
                "not CT; name the CT in HU, or state with --hu-offset=0 that the values are HU"
            )
        if thinnest >= -NARROW:  # fat alone has less
            raise CaseError(
                f"{self.path}: values from {thinnest:g} to {self.highest:g} without any air near -1000 are not HU; if "
                "they are HU plus a constant, correct it with --hu-offset (often --hu-offset=-1024); if they are HU, "
                "state it with --hu-offset=0"
            )

    def _require_air_and_tissue(self) -> None:
        """Raise a CaseError if the values are HU that were shifted, multiplied, or stored in another byte order."""
        few = FEW * self.voxels.size
        if self.highest > LARGEST:
            reason = f"values up to {self.highest:g}"
        elif self.bone > MOST_BONE * self.body and self.body > few and not self.offset:
            reason = f"{self.bone / self.body:.0%} of the body above {BONE}, as in HU plus a constant,"
        elif self.padding > few and self.body < few:
            reason = f"values from {self.lowest:g} to {self.highest:g} without any tissue"
        elif self.padding > few and not self._is_padding():
            reason = f"values from {self.lowest:g} to {self.floor:g} at many levels, unlike padding,"
        else:
            return
        raise CaseError(
            f"{self.path}: {reason} are not HU; export it again, or correct a constant with --hu-offset (often "
            "--hu-offset=-1024 or 1024); if they are HU, state it with --hu-offset=0"
        )

    def _is_padding(self) -> bool:
        _, counts = np.unique(np.concatenate(self.outside), return_counts=True)
        return bool(2 * np.sort(counts)[-LEVELS:].sum() >= counts.sum())


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


#: Numbers beyond this are not HU, not even wrapped or padding.
ABSURD = 1e5


def require_numbers(path: Path, stored: np.dtype) -> None:
    """Raise a CaseError if values of that type cannot be CT."""
    if stored.kind not in "iuf":
        kind = {"c": "complex", "V": "colour"}.get(stored.kind, "unknown")
        raise CaseError(f"{path}: its voxels are {kind} ({stored}), not numbers in HU; it is not CT")
