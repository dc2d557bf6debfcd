"""Read and check the scan and the label map of a raw case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..io.labels import read_labels
from ..io.voxels import ABSURD, believable, check_geometry, require_numbers
from ..runtime.errors import CaseError
from ..runtime.files import open_packed, read_to_end

#: KiTS19 stores the slice axis first: axis 0 runs to inferior, 1 to posterior, 2 to left.
AXCODES = ("I", "P", "L")
#: Largest relative difference between the voxel sizes of the header and the affine.
AGREEMENT = 0.01


@dataclass(frozen=True)
class RawCase:
    """Hold one case before preprocessing; ``split`` is ``"training"`` or ``"evaluation"``."""

    case_id: str
    image: Path
    label: Path
    split: str


def read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Read a volume in IPL order: voxels (D, H, W), voxel size in mm along D, H, W, and affine.

    Voxels keep their stored values. The voxel size is the header's ``pixdim`` (float32), as in the reference.

    Raises:
        CaseError: if the file cannot be read, is not a 3-D volume of numbers, or has no clear voxel size and
            position in its header.
    """
    try:
        image = nib.load(path)
        if path.suffix == ".gz":  # faster than nibabel's reader, and verifies the checksum at the end
            with open_packed(path) as stream:
                voxels = np.asanyarray(type(image).from_stream(stream).dataobj)  # type: ignore[attr-defined]
                read_to_end(stream)
        else:
            voxels = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
        zooms = image.header.get_zooms()  # type: ignore[attr-defined]
        affine = np.asarray(image.affine, dtype=np.float64)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel, gzip and zlib raise many types for a damaged file
        raise CaseError(f"{path}: cannot be read ({error}); copy or download it again") from error
    if voxels.ndim != 3:
        raise CaseError(f"{path}: has shape {voxels.shape}, but must have three axes")
    require_numbers(path, voxels.dtype)
    check_geometry(path, voxels.shape, affine)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not believable(zooms) or (np.abs(sizes - zooms) > AGREEMENT * sizes).any():
        raise CaseError(f"{path}: pixdim is {zooms} mm, but the affine has {sizes.round(3)}; correct the header")
    voxels, affine, order = _in_ipl(voxels, affine)
    d, h, w = (float(zooms[axis]) for axis in order)
    return voxels, (d, h, w), affine


def _in_ipl(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    """Read image (HU) and label (uint8), each (1, D, H, W) in IPL order, with spacing and affine.

    The image is int16 if stored so, and float32 otherwise.

    Raises:
        CaseError: if the two do not belong together, or the image's values are not HU. Also if the label has only
            one value, or values other than whole numbers below ``classes``.
    """
    image, spacing, affine = read_volume(case.image)
    labels = read_labels(case.label)
    label, label_affine, _ = _in_ipl(labels.voxels, labels.affine)
    if image.shape != label.shape:
        raise CaseError(
            f"{case.label}: shape {label.shape} differs from the image's {image.shape}; use the label map of this image"
        )
    if not np.allclose(affine, label_affine, atol=1e-2):
        raise CaseError(f"{case.label}: the affine differs from the image's; use the label map of this image")
    counts = _counts(label)
    strange = {value: count for value, count in counts.items() if value not in range(classes)}
    if strange:
        raise CaseError(f"{case.label}: unknown label values {strange}; known are 0 to {classes - 1}")
    if len(counts) == 1:
        raise CaseError(f"{case.label}: every voxel is {next(iter(counts)):g}; use another label map")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise CaseError(f"{case.image}: contains voxels that are not finite numbers; export it again")
    if max(-float(image.min()), float(image.max())) > ABSURD:
        raise CaseError(f"{case.image}: values from {image.min():g} to {image.max():g} are not HU; export it again")
    return {
        "image": (image if image.dtype == np.int16 else image.astype(np.float32))[None],
        "label": label.astype(np.uint8, copy=False)[None],
        "spacing_mm": spacing,
        "affine": affine,
    }
