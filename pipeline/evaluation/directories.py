"""Score a directory of masks against a directory of ground truths."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.datasets import DATASET_FILE, named_classes
from ..data.nnunet import CHANNEL, is_nnunet, nnunet_labels, read_description
from ..io import ReadOptions
from ..io.labels import LabelMap, read_labels
from ..io.scan import same_grid
from ..io.scan_files import ending_of, stem
from ..io.segments import SIDES, TERMS
from ..runtime.errors import CaseError, UsageError
from .scores import KITS19, Scores, Scoring

logger = logging.getLogger("kits_unet3d.evaluation")

#: What KiTS19 calls a case's label map and its scan, in the case's own directory.
LABEL_NAME, SCAN_NAME = "segmentation", "imaging"
#: Endings of a mask's name that do not belong to the case's: this program's and 3D Slicer's.
SUFFIXES = ("_seg", ".seg")
#: Names that describe no class, such as 3D Slicer's Segment_1.
NEUTRAL = re.compile(r"(segment|label|class)?[\s_-]*\d*", re.IGNORECASE)


def find_masks(directory: str | Path, leave_out: str | Path | None = None, described: bool = False) -> dict[str, Path]:
    """Find label maps by case, below ``directory`` too: ``<case>``, ``<case>_seg`` or ``<case>/segmentation``.

    A case below another directory has its path in its name, as in the output of ``kits-unet3d predict``. Files beside
    a ``segmentation`` are left out, since they belong to the same case.

    Args:
        directory: searched with its subdirectories; hidden files and KiTS19's ``imaging`` are skipped.
        leave_out: directory that is not searched if it lies below ``directory``.
        described: take the label maps that nnU-Net's ``dataset.json`` names, or those of ``labelsTr`` and ``labelsTs``.
            nnU-Net leaves a copy of that file beside predictions, where it names the ground truth.

    Raises:
        UsageError: if the directory does not exist, or a case has two label maps.
    """
    root = Path(directory)
    if not root.is_dir():
        reason = "is a file; name its directory" if root.exists() else "no such directory"
        raise UsageError(f"{root}: {reason}")
    masks: dict[str, Path] = {}
    if described and is_nnunet(content := read_description(file := root / DATASET_FILE)):
        for case_id, path in (pair for split in nnunet_labels(file, content).values() for pair in split.items()):
            if case_id in masks:
                raise UsageError(f"{path}: {case_id} also has the mask {masks[case_id]}; keep one of them")
            if path.is_file():
                masks[case_id] = path
    if masks:
        return dict(sorted(masks.items()))
    seen = set() if leave_out is None else {os.path.realpath(leave_out)} - {os.path.realpath(root)}
    for place, directories, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            directories.clear()
            continue
        seen.add(real)
        paths = [Path(place) / name for name in sorted(files) if ending_of(Path(name)) and not name.startswith(".")]
        if own := [path for path in paths if stem(path) == LABEL_NAME]:
            paths = own
            directories.clear()
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for path in paths:
            if stem(path) == SCAN_NAME:
                continue
            case_id = _case_of(path, root)
            if case_id in masks:
                raise UsageError(f"{path}: {case_id} also has the mask {masks[case_id].name}; keep one of them")
            masks[case_id] = path
    return dict(sorted(masks.items()))


def _case_of(path: Path, root: Path) -> str:
    directories, name = path.parent.relative_to(root).parts, stem(path)
    if name == LABEL_NAME and directories:
        return "/".join(directories)
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return "/".join((*directories, name[: len(name) - len(suffix)]))


def score_directories(
    predictions: str | Path,
    labels: str | Path,
    scoring: Scoring = KITS19,
    options: ReadOptions | None = None,
    classes: Sequence[str] = (),
) -> tuple[Scores, dict[str, str]]:
    """Score each mask by Dice, surface scores and its lesions; return the scores, and the errors by case.

    The ground truth of a case is ``labels/<case>/segmentation.nii.gz`` or ``labels/<case>.nii.gz`` (``.nrrd``, …). Mask
    and ground truth must lie on one grid, and contain only the classes of ``scoring``. A label map that names its
    classes is scored by the names, whatever the values; right and left kidney count as kidney.
    :func:`without_prediction` returns the other ground truths.

    Args:
        predictions, labels: directories of the masks and of the ground truths.
        scoring: structures to score.
        options: correct the headers of both.
        classes: names of the values, background first, in label maps whose files do not name them.

    Raises:
        UsageError: if one of the directories does not exist, ``predictions`` holds no mask, or a case has two or
            is named mean.
    """
    masks, ground_truths = _masks_and_ground_truths(predictions, labels)
    if not masks:
        raise UsageError(f"{predictions}: contains no mask <case>_seg.nii.gz; run `kits-unet3d predict` first")
    if "mean" in masks:
        raise UsageError(f"{masks['mean']}: the name mean is reserved for the mean of all cases; rename the mask")
    # nnU-Net copies the description of its training data beside its predictions.
    own = named_classes(predictions, may_ignore=True) if (Path(predictions) / DATASET_FILE).is_file() else ()
    names = own or classes, classes
    scores, failed = Scores(lesion_classes=tuple(scoring.lesions)), {}
    for case_id, path in masks.items():
        try:
            if case_id not in ground_truths:
                raise CaseError(
                    f"{path}: ground truth {Path(labels) / case_id}.nii.gz or {case_id}/segmentation.nii.gz does not "
                    "exist; name the directory that has it"
                )
            mask, ground_truth = _read_pair(path, ground_truths[case_id], scoring, options, names)
            pair = mask.voxels, ground_truth.voxels
            scores.by_case[case_id] = scoring.scores(*pair, ground_truth.spacing_mm)
            if scoring.lesions:
                scores.lesions[case_id] = scoring.find_lesions(*pair, ground_truth.grid.voxel_ml)
        except CaseError as error:
            failed[case_id] = str(error)
    return scores, failed


def without_prediction(predictions: str | Path, labels: str | Path) -> list[str]:
    """Return the cases that have a ground truth and no mask, sorted."""
    masks, ground_truths = _masks_and_ground_truths(predictions, labels)
    return [case_id for case_id in ground_truths if case_id not in masks]


def _masks_and_ground_truths(predictions: str | Path, labels: str | Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return both by case; a mask of nnU-Net's image ``<case>_0000`` belongs to its label map ``<case>``."""
    masks = find_masks(predictions, leave_out=labels)
    ground_truths = find_masks(labels, leave_out=predictions, described=True)
    for case_id in [one for one in masks if one not in ground_truths and one.endswith(CHANNEL)]:
        if (case := case_id.removesuffix(CHANNEL)) in ground_truths and case not in masks:
            masks[case] = masks.pop(case_id)
    return dict(sorted(masks.items())), ground_truths


def _read_pair(
    mask_path: Path,
    ground_truth_path: Path,
    scoring: Scoring,
    options: ReadOptions | None,
    classes: tuple[Sequence[str], Sequence[str]],
) -> tuple[LabelMap, LabelMap]:
    mask, ground_truth = read_labels(mask_path, options), read_labels(ground_truth_path, options)
    if not same_grid(mask, ground_truth):
        raise CaseError(f"{mask_path}: is on another grid than {ground_truth_path}; predict from that case's scan")
    mask, ground_truth = (
        _with_values(one, scoring.values, names) for one, names in zip((mask, ground_truth), classes, strict=True)
    )
    for labels in (mask, ground_truth):
        _require_classes(labels, scoring)
    return mask, ground_truth


def _with_values(labels: LabelMap, values: Mapping[str, int], classes: Sequence[str]) -> LabelMap:
    """Return a label map whose classes have the ``values`` of their names; right and left kidney become kidney.

    Names that are none of a known class, such as 3D Slicer's ``Segment_1``, change nothing.

    Raises:
        CaseError: if another class has a value that is scored.
    """
    names = {segment.value: segment.name for segment in labels.segments} or dict(enumerate(classes))
    names = {value: "kidney" if name in SIDES and "kidney" in values else name for value, name in names.items()}
    moved = {value: values[name] for value, name in names.items() if value > 0 and name in values}
    if not {*names.values()} & {*TERMS, *values}:
        if unusual := [name for value, name in names.items() if value > 0 and not NEUTRAL.fullmatch(name)]:
            known = ", ".join(values)
            logger.warning("%s: names %s, and none of %s; its values count", labels.path, ", ".join(unusual), known)
        return labels
    for value in {*values.values()} - moved.keys():
        scored = next(name for name, of in values.items() if of == value)
        if (value in names or value in moved.values()) and (labels.voxels == value).any():
            raise CaseError(
                f"{labels.path}: its value {value} is {names.get(value, 'not named')}, but {value} is scored as "
                f"{scored}; name what to score by --structures name=classes"
            )
    if all(value == target for value, target in moved.items()):
        return labels
    table = np.arange(max(int(labels.voxels.max()), *moved) + 1)
    table[list(moved)] = list(moved.values())
    return replace(labels, voxels=table.astype(np.min_scalar_type(int(table.max())))[labels.voxels], segments=())


def _require_classes(labels: LabelMap, scoring: Scoring) -> None:
    """Reject a class that belongs to no structure: it is another data set's, or was forgotten."""
    known = {0}.union(*scoring.structures.values())
    unknown = labels.voxels[~np.isin(labels.voxels, sorted(known))]
    if unknown.size:
        found = [int(value) for value in np.unique(unknown)[:5]]
        named = {one.value: f"{one.value} ({one.name})" for one in labels.segments}
        values = ", ".join(named.get(value, str(value)) for value in found)
        made = ", ".join(f"{name} of {' and '.join(map(str, classes))}" for name, classes in scoring.structures.items())
        way_out = ""
        if 3 in unknown:
            way_out = (
                "; if the ground truth has cysts as 3 (KiTS23), use --structures kits23, else count 3 as kidney with "
                "--structures kidney=1,2,3 tumour=2"
            )
        if any(one.value in found and one.name in SIDES for one in labels.segments):
            way_out = "; for right and left kidney together, use --structures kits19 or kits23"
        raise CaseError(
            f"{labels.path}: contains {unknown.size} voxels of value {values}; scored are {made} (--structures)"
            + way_out
        )
