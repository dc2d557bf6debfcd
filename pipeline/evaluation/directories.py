"""Score a directory of masks against a directory of ground truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..io.labels import LabelMap, read_labels
from ..io.scan import same_grid
from ..io.scan_lists import ITK, NIFTI, ending_of, scan_name
from ..runtime.errors import CaseError, UsageError
from .scores import Scores
from .structures import STRUCTURES, kits19_scores


def find_masks(directory: str | Path) -> dict[str, Path]:
    """Find masks by case: ``<case>_seg`` or ``<case>``, in any format that masks are written in.

    Raises:
        UsageError: if a case has two masks.
    """
    masks: dict[str, Path] = {}
    for path in sorted(Path(directory).glob("[!.]*")):
        if ending_of(path):
            case_id = scan_name(path).removesuffix("_seg")
            if case_id in masks:
                raise UsageError(f"{path}: {case_id} also has the mask {masks[case_id].name}; keep one of them")
            masks[case_id] = path
    return masks


def _ground_truth(directory: Path, case_id: str) -> Path:
    """Return ``<case>`` in any format, or else ``<case>/segmentation.nii.gz``."""
    beside = (directory / f"{case_id}{ending}" for ending in (*NIFTI, *ITK))
    return next((path for path in beside if path.is_file()), directory / case_id / "segmentation.nii.gz")


def score_directories(
    predictions: str | Path, labels: str | Path, structures: Mapping[str, Sequence[int]] = STRUCTURES
) -> tuple[Scores, dict[str, str]]:
    """Score each mask by KiTS19's Dice and the surface scores; return the scores, and the errors by case.

    The ground truth of a case is ``labels/<case>/segmentation.nii.gz`` or ``labels/<case>.nii.gz`` (``.nrrd``, …). Mask
    and ground truth must lie on one grid, and contain only the classes of ``structures``.

    Raises:
        UsageError: if ``predictions`` holds no mask.
    """
    masks = find_masks(predictions)
    if not masks:
        raise UsageError(f"{predictions}: contains no mask <case>_seg.nii.gz; run `kits-unet3d predict` first")
    scores, failed = Scores(), {}
    for case_id, path in masks.items():
        try:
            scores.by_case[case_id] = _score(path, _ground_truth(Path(labels), case_id), structures)
        except CaseError as error:
            failed[case_id] = str(error)
    return scores, failed


def _score(
    mask_path: Path, ground_truth_path: Path, structures: Mapping[str, Sequence[int]]
) -> dict[str, float | None]:
    if not ground_truth_path.is_file():
        raise CaseError(f"{mask_path}: ground truth {ground_truth_path} does not exist")
    mask, ground_truth = read_labels(mask_path), read_labels(ground_truth_path)
    if not same_grid(mask, ground_truth):
        raise CaseError(f"{mask_path}: is on another grid than {ground_truth_path}; predict from that case's scan")
    for labels in (mask, ground_truth):
        _require_classes(labels, structures)
    return kits19_scores(mask.voxels, ground_truth.voxels, ground_truth.spacing_mm, structures)


def _require_classes(labels: LabelMap, structures: Mapping[str, Sequence[int]]) -> None:
    """Reject a class that belongs to no structure: it is another data set's, or was forgotten."""
    known = {0}.union(*structures.values())
    unknown = labels.voxels[~np.isin(labels.voxels, sorted(known))]
    if unknown.size:
        values = ", ".join(f"{value:g}" for value in np.unique(unknown)[:5])
        made = ", ".join(f"{name} of {' and '.join(map(str, classes))}" for name, classes in structures.items())
        raise CaseError(
            f"{labels.path}: contains {unknown.size} voxels of value {values}; scored are {made} (--structures)"
        )
