"""Propose the preprocessing parameters of a data set from its own training cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kits_unet3d.transforms import PreprocessingParameters

from ..io import ReadOptions
from ..model import PHANTOMS
from ..runtime.errors import CaseError, UsageError
from .cases import RawCase, read_case
from .datasets import DATASET_FILE, KITS19, find_cases, named_classes

#: HU that are counted; values beyond are counted at the ends. A CT scanner stores -1024 to 3071, or up to 32767.
LOWEST, HIGHEST = -4096, 32767
#: Shares of the labelled voxels below the lowest and above the highest HU that is kept, in percent (as nnU-Net does).
CLIPPED = (0.5, 99.5)
#: Label values that a file may hold.
VALUES = 256


def fingerprint(data_dir: str | Path, options: ReadOptions | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Propose an overlay for ``train.json`` from the training cases of a data set.

    Args:
        data_dir: source as for :func:`~kits_unet3d.pipeline.data.find_cases`.
        options: allow files that would otherwise be refused.

    Returns:
        The overlay: ``classes``; ``spacing_mm``, the median along D, H and W; ``hu_window``, the 0.5 and the 99.5 %
        quantile of the labelled voxels; ``hu_mean`` and ``hu_std`` of these voxels, clipped to the window;
        ``padding_value``, the normalised lower end of the window. And the error messages of the cases left out.

    Raises:
        UsageError: if no training case can be read, or the data set's names do not fit its label maps.
    """
    name, cases = find_cases(data_dir, options)
    names = named_classes(data_dir) or (PreprocessingParameters().classes if name in (KITS19, PHANTOMS) else ())
    counts, values = np.zeros(HIGHEST - LOWEST + 1, dtype=np.int64), np.zeros(VALUES, dtype=np.int64)
    spacings, failed = [], {}
    for case in tqdm([case for case in cases if case.split == "training"], desc="fingerprint", unit="case"):
        try:
            spacings.append(_count(case, counts, values))
        except CaseError as error:
            failed[case.case_id] = str(error)
    if not spacings:
        reason = next(iter(failed.values()), "it lists no training case")
        raise UsageError(f"{data_dir}: no training case can be read ({reason})")
    low, high, mean, std = _statistics(counts)
    highest = int(np.flatnonzero(values).max())
    overlay = {
        "classes": _class_names(data_dir, names, highest),
        "spacing_mm": [round(float(size), 4) for size in np.median(spacings, axis=0)],
        "hu_window": [float(low), float(high)],
        "hu_mean": round(mean, 2),
        "hu_std": round(std, 2),
        "padding_value": round((low - mean) / std, 3),
    }
    try:
        PreprocessingParameters.from_dict(overlay)
    except (TypeError, ValueError) as error:  # names that MONAI would evaluate, or one name twice
        raise UsageError(f"{data_dir}: {error}; correct the names in its {DATASET_FILE}") from error
    return overlay, failed


def _count(case: RawCase, counts: np.ndarray, values: np.ndarray) -> Sequence[float]:
    """Add the HU of a case's labelled voxels to ``counts`` and its labels to ``values``; return its voxel size."""
    raw = read_case(case, VALUES)
    for image, label in zip(raw["image"][0], raw["label"][0], strict=True):  # one slice at a time needs little memory
        labelled = np.clip(np.rint(image[label > 0]), LOWEST, HIGHEST).astype(np.int64) - LOWEST
        counts += np.bincount(labelled, minlength=len(counts))
        values += np.bincount(label.ravel(), minlength=VALUES)
    return tuple(raw["spacing_mm"])


def _statistics(counts: np.ndarray) -> tuple[int, int, float, float]:
    """Return the ends of the window, and mean and standard deviation of the values clipped to it, in whole HU."""
    reached = np.cumsum(counts) / counts.sum()
    low, high = (int(np.searchsorted(reached, percent / 100)) + LOWEST for percent in CLIPPED)
    clipped = np.clip(np.arange(LOWEST, HIGHEST + 1), low, high)
    mean = float((clipped * counts).sum() / counts.sum())
    std = float(np.sqrt((((clipped - mean) ** 2) * counts).sum() / counts.sum()))
    return low, high, mean, max(std, 1.0)  # so that a constant image can be divided by it


def _class_names(source: str | Path, names: Sequence[str], highest: int) -> list[str]:
    """Return the names of the values up to ``highest``: those given, or else numbered ones."""
    if not names:
        return ["background", *(f"class_{number}" for number in range(1, highest + 1))]
    if len(names) <= highest:
        raise UsageError(
            f"{source}: its label maps contain {highest}, but the names are {', '.join(names)}; name every value"
        )
    return list(names)
