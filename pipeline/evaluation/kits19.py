"""Scores of structures on the scan's own grid; KiTS19's own, where kidney means kidney and tumour together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from monai.transforms import generate_spatial_bounding_box

from .surfaces import surface_scores

#: The classes that make up each structure KiTS19 scores.
STRUCTURES: Mapping[str, Sequence[int]] = {"kidney": (1, 2), "tumour": (2,)}


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two boolean arrays; 1 if both are empty, 0 if one is."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def kits19_scores(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    structures: Mapping[str, Sequence[int]] = STRUCTURES,
) -> dict[str, float | None]:
    """``kidney_dice`` (classes 1 ∪ 2) and ``tumour_dice`` (class 2) of two label maps of one shape.

    Args:
        predicted, truth: label maps (X, Y, Z) of whole numbers.
        spacing_mm: size of a voxel along their axes. Given it, each Dice is followed by that structure's
            :func:`~kits_unet3d.pipeline.evaluation.surfaces.surface_scores`: ``kidney_hd95_mm``,
            ``kidney_surface_dice_1mm``, ``kidney_surface_dice_3mm`` and the same of the tumour.
        structures: for another data set, its structures by name, each with the classes that it is made of.

    Source: the KiTS19 challenge's evaluation (Dice).
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"the masks must have one shape, got {predicted.shape} and {truth.shape}")
    inside = _foreground(predicted, truth)
    predicted, truth = predicted[inside], truth[inside]
    scores: dict[str, float | None] = {}
    for name, classes in structures.items():
        pair = np.isin(predicted, classes), np.isin(truth, classes)
        scores[f"{name}_dice"] = dice(*pair)
        if spacing_mm is not None:
            scores |= {f"{name}_{key}": value for key, value in surface_scores(*pair, spacing_mm).items()}
    return scores


def _foreground(predicted: np.ndarray, truth: np.ndarray) -> tuple[slice, ...]:
    """The box around what either holds: a scan is mostly background, which no score looks at."""
    low, high = generate_spatial_bounding_box(((predicted > 0) | (truth > 0))[None])
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
