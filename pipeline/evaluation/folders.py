"""Scores of a folder of masks against a folder of truths."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CaseError, UsageError
from ..inference.scan import Scan, read_scan, same_grid
from .kits19 import kits19_scores
from .scores import Scores


def find_masks(folder: str | Path) -> dict[str, Path]:
    """Masks by case: ``<case>_seg.nii.gz`` or ``<case>.nii.gz``."""
    found = sorted(path for path in Path(folder).glob("*.nii.gz") if path.name[0] != ".")
    return {path.name.removesuffix(".nii.gz").removesuffix("_seg"): path for path in found}


def score_folders(predictions: str | Path, labels: str | Path) -> tuple[Scores, dict[str, str]]:
    """KiTS19's scores and the surfaces' of each mask in ``predictions``; second, why a case has none.

    The truth of a case is ``labels/<case>/segmentation.nii.gz``; mask and truth must lie on one grid.

    Raises:
        UsageError: if there is no mask.
    """
    masks = find_masks(predictions)
    if not masks:
        raise UsageError(f"{predictions}: holds no mask <case>_seg.nii.gz; run `kits-unet3d predict` first")
    scores, failed = Scores(), {}
    for case_id, path in masks.items():
        try:
            scores.by_case[case_id] = _score(path, Path(labels) / case_id / "segmentation.nii.gz")
        except CaseError as error:
            failed[case_id] = str(error)
    return scores, failed


def _score(mask_path: Path, truth_path: Path) -> dict[str, float | None]:
    if not truth_path.is_file():
        raise CaseError(f"{mask_path}: has no truth, {truth_path} is missing")
    mask, truth = read_scan(mask_path), read_scan(truth_path)
    if not same_grid(mask, truth):
        raise CaseError(f"{mask_path}: lies on another grid than {truth_path}; predict from that case's scan")
    for scan in (mask, truth):
        _require_classes(scan)
    return kits19_scores(mask.voxels, truth.voxels, truth.spacing_mm)


def _require_classes(scan: Scan) -> None:
    """KiTS19's kidney is whatever is not background, so another data set's class 3 would pass for it unseen."""
    voxels = scan.voxels
    unknown = voxels[(voxels != 0) & (voxels != 1) & (voxels != 2)]
    if unknown.size:
        values = ", ".join(f"{value:g}" for value in np.unique(unknown)[:5])
        raise CaseError(
            f"{scan.path}: holds {unknown.size} voxels of value {values}; classes are 0 background, 1 kidney, 2 tumour"
        )
