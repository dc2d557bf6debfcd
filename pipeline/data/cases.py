"""Read and check the scan and the label map of a raw case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..io import ReadOptions
from ..io.labels import read_labels
from ..runtime.errors import CaseError
from .volumes import in_ipl, read_volume


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
        raise CaseError(f"{case.label}: unknown label values {strange}; known are 0 to {classes - 1}")
    if len(counts) == 1:
        raise CaseError(f"{case.label}: every voxel is {next(iter(counts)):g}; use another label map")
    return {
        "image": image[None],
        "label": label.astype(np.uint8, copy=False)[None],
        "spacing_mm": spacing,
        "affine": affine,
        "warnings": warnings,
    }
