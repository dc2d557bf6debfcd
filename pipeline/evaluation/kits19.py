"""KiTS19's own scores, on the scan's own grid: kidney means kidney and tumour together."""

from __future__ import annotations

import numpy as np


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two boolean arrays; 1 if both are empty, 0 if one is."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def kits19_scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """``kidney_dice`` (classes 1 ∪ 2) and ``tumour_dice`` (class 2) of two label maps of one shape.

    Source: the KiTS19 challenge's evaluation.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"the masks must have one shape, got {predicted.shape} and {truth.shape}")
    return {
        "kidney_dice": dice(predicted > 0, truth > 0),
        "tumour_dice": dice(predicted == 2, truth == 2),
    }
