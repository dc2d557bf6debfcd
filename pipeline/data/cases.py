"""Read and check the scan and the label map of a raw case, in the order of KiTS19's axes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..io import ReadOptions
from ..io.grid import believable
from ..io.labels import read_labels
from ..io.scan import read_volume as read_stored
from ..io.voxels import AIR, DENSEST, WRAPPED, Hounsfield
from ..runtime.errors import CaseError

#: KiTS19 stores the slice axis first: axis 0 runs to inferior, 1 to posterior, 2 to left.
AXCODES = ("I", "P", "L")
#: Largest relative difference between the voxel sizes of the header and the affine.
AGREEMENT = 0.01


class UnclippedHounsfield(Hounsfield):
    """Check a volume like :class:`Hounsfield`, but keep values beyond a scanner's range, as the reference does.

    The reference clips after resampling, which gives other values at the border of padding.
    """

    clips = False

    def type_for(self, stored: np.dtype) -> type[np.number]:
        """Return int16 only for values that it holds as they are stored."""
        return super().type_for(stored) if stored == np.int16 and not self.shift else np.float32

    def put(self, first: int, slices: np.ndarray) -> None:
        super().put(first, slices)
        if self.lowest >= AIR and self.highest <= DENSEST:
            return
        values = slices.astype(np.float64)
        if self.may_wrap:
            values[values > WRAPPED] -= 1 << 16
        if self.slope != 1 or self.shift:
            values = values * self.slope + self.shift
        outside = ((values < AIR) | (values > DENSEST)) & np.isfinite(values)
        self.voxels[:, :, first : first + slices.shape[2]][outside] = values[outside]


def read_volume(
    path: Path, options: ReadOptions | None = None, unclipped: bool = False, warnings: list[str] | None = None
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Read a scan in IPL order: voxels (D, H, W), voxel size in mm along D, H, W, and affine.

    The file is checked and corrected as for prediction (:func:`~kits_unet3d.pipeline.io.scan.read_scan`), in any
    format. The voxel size of a NIfTI file is the header's ``pixdim`` (float32), as in the reference.

    Args:
        path: file, or directory of a DICOM series.
        options: allow scans that would otherwise be refused.
        unclipped: keep values beyond a scanner's range.
        warnings: receives what a user should know about the file.

    Raises:
        CaseError: if the file cannot be read, is not CT in HU, or lacks a clear voxel size or position in its header.
    """
    options = options or ReadOptions()
    grid, stored = read_stored(path, options, UnclippedHounsfield if unclipped else Hounsfield)
    voxels, affine = stored.voxels, stored.affine
    if warnings is not None:
        warnings.extend(stored.warnings)
    spacing = _spacing(path, stored.header, affine, options)
    del grid, stored  # they hold the voxels, which are copied now
    voxels, affine, order = in_ipl(voxels, affine)
    d, h, w = (float(spacing[axis]) for axis in order)
    return voxels, (d, h, w), affine


def _spacing(path: Path, header: Any, affine: np.ndarray, options: ReadOptions) -> np.ndarray:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not isinstance(header, nib.Nifti1Header):
        return np.asarray(sizes)
    zooms = np.abs(np.asarray(header["pixdim"][1:4]))
    if believable(zooms) and (np.abs(sizes - zooms) <= AGREEMENT * sizes).all():
        return zooms
    if options.trust is None:
        raise CaseError(
            f"{path}: pixdim is {zooms} mm, but the affine has {sizes.round(3)}; correct the header, or take the "
            "affine's with --trust sform (or qform)"
        )
    return np.asarray(sizes)


def in_ipl(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return voxels in IPL order, the affine of that order, and the axis that each of the three was before."""
    now = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(AXCODES))
    order = np.argsort(change[:, 0]).astype(int)
    oriented = affine @ nib.orientations.inv_ornt_aff(change, voxels.shape)
    return _row_by_row(nib.orientations.apply_orientation(voxels, change)), oriented, order


def _row_by_row(voxels: np.ndarray) -> np.ndarray:
    """Copy ``voxels`` so that the last axis is contiguous, as torch needs it.

    In NIfTI the first axis is contiguous. A copy of the whole by numpy crosses it for each row, and takes seven
    times as long.
    """
    reordered = np.empty(voxels.shape, voxels.dtype)
    for row in range(voxels.shape[1]):
        reordered[:, row] = np.ascontiguousarray(voxels[:, row].T).T
    return reordered


@dataclass(frozen=True)
class RawCase:
    """Hold one case before preprocessing.

    Attributes:
        case_id: identifier.
        image, label: files of the scan and its label map; ``image`` may be the directory of a DICOM series.
        split: ``"training"`` or ``"evaluation"``.
        options: allow files that would otherwise be refused, as for prediction.
        unclipped: keep the scan's values beyond a scanner's range, as the reference does with KiTS19.
    """

    case_id: str
    image: Path
    label: Path
    split: str
    options: ReadOptions = field(default_factory=ReadOptions)
    unclipped: bool = False


def _counts(label: np.ndarray) -> dict[float, int]:
    """Count each value, slice by slice: sorting or widening a whole volume takes long."""
    if label.dtype == np.uint8:
        found = np.sum([np.bincount(part.ravel(), minlength=256) for part in label], axis=0)
        return {float(value): int(found[value]) for value in np.flatnonzero(found)}
    counts: Counter[float] = Counter()
    for part in label:
        values, found = np.unique(part, return_counts=True)
        counts.update(dict(zip(values.astype(float).tolist(), found.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def read_case(case: RawCase, classes: int) -> dict[str, Any]:
    """Read image (HU) and label (uint8), each (1, D, H, W) in IPL order, with spacing, affine and warnings.

    The image is int16 if the file holds whole HU, and float32 otherwise.

    Raises:
        CaseError: if the two do not belong together, or prediction would refuse the image. Also if the label has only
            one value, or values other than whole numbers below ``classes``.
    """
    warnings: list[str] = []
    image, spacing, affine = read_volume(case.image, case.options, case.unclipped, warnings)
    labels = read_labels(case.label, case.options)
    label, label_affine, _ = in_ipl(labels.voxels, labels.affine)
    if image.shape != label.shape:
        raise CaseError(
            f"{case.label}: shape {label.shape} differs from the image's {image.shape}; use the label map of this image"
        )
    if not np.allclose(affine, label_affine, atol=1e-2):
        raise CaseError(f"{case.label}: the affine differs from the image's; use the label map of this image")
    counts = _counts(label)
    strange = {value: count for value, count in counts.items() if value not in range(classes)}
    if strange:
        preset = "; for KiTS23, whose 3 is a cyst, use --config kits23" if classes == 3 and 3.0 in strange else ""
        raise CaseError(f"{case.label}: unknown label values {strange}; known are 0 to {classes - 1}{preset}")
    if len(counts) == 1:
        raise CaseError(f"{case.label}: every voxel is {next(iter(counts)):g}; use another label map")
    return {
        "image": image[None],
        "label": label.astype(np.uint8, copy=False)[None],
        "spacing_mm": spacing,
        "affine": affine,
        "warnings": warnings,
    }
