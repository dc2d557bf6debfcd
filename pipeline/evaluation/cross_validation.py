"""Predict each case by the network that has not seen it, and choose the post-processing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..data import RawCase
from ..device import Accelerator
from ..inference import PostProcessing, Predictor, Results
from ..inference.batch import Batch
from ..inference.results import anonymous
from ..io import Found
from ..io.labels import LabelMap, read_labels
from ..io.scan import Scan, read_scan, same_grid
from ..runtime.errors import CaseError, UsageError
from . import KITS19, Scores, Scoring
from .directories import find_masks
from .fold_results import FoldResult


def out_of_fold_masks(
    result: FoldResult,
    cases: Mapping[str, RawCase],
    accelerator: Accelerator,
    backend: str = "auto",
    limit: float = float("inf"),
) -> dict[str, Path]:
    """Predict a training's held-out cases on their scans' own grids; return the masks by case.

    Masks go to ``masks`` in the training's directory. Existing masks of the same scan and model are kept.

    Args:
        result: result of the training.
        cases: raw cases by identifier, at least the held-out ones.
        accelerator: device of the prediction.
        backend: inference backend.
        limit: bytes of memory a scan may need.

    Raises:
        UsageError: if ``cases`` lacks a held-out case, or a scan could not be predicted.
    """
    lacking = sorted(set(result.evaluation_cases) - set(cases))
    if lacking:
        raise UsageError(
            f"{result.directory}: held out {lacking[0]}, which the data set does not contain; name its raw data"
        )
    directory = result.directory / "masks"
    scans = {case_id: Found(cases[case_id].image, case_id) for case_id in result.evaluation_cases}
    predictor = Predictor(result.checkpoint, accelerator, backend=backend)
    batch = Batch(predictor, directory, limit=limit, results=Results(html_report=False))
    failed = batch.run(list(scans.values()))
    if failed:
        raise UsageError(f"{directory}: {', '.join(failed)} could not be predicted; see {directory / 'summary.json'}")
    masks = find_masks(directory)
    return {case_id: masks[anonymous(found, found.identity).name] for case_id, found in scans.items()}


#: Candidates, from removing nothing to removing the most; sizes in mm³ (500 is a ball of 1 cm).
CANDIDATES = tuple(
    PostProcessing(keep, touch, least)
    for least, touch, keep in product((0.0, 50.0, 200.0, 500.0), (False, True), (False, True))
)


@dataclass(frozen=True)
class Choice:
    """Hold the scores of all candidates and choose the best.

    Attributes:
        scores: Dice of the structures by case of each candidate, in their order.
        ranked: structures whose Dice decides; all if empty.
    """

    scores: Mapping[PostProcessing, Scores]
    ranked: Sequence[str] = ()

    @property
    def means(self) -> dict[PostProcessing, float]:
        """Return the mean Dice of the ranked structures over all cases, by candidate."""
        ranked = {f"{structure}_dice" for structure in self.ranked}

        def decides(name: str) -> bool:
            return name in ranked if ranked else name.endswith("dice") and not name.endswith("surface_dice")

        return {
            candidate: float(np.mean([v for name, v in scores.mean.items() if v is not None and decides(name)]))
            for candidate, scores in self.scores.items()
        }

    @property
    def best(self) -> PostProcessing:
        """Return the candidate with the highest mean; of equal ones the first, which removes the least."""
        means = self.means
        return max(means, key=lambda candidate: means[candidate])

    def unseen(self, folds: Sequence[Collection[str]]) -> Scores | None:
        """Return the scores of each case with :meth:`chosen_by_others`; None for a single fold."""
        chosen = self.chosen_by_others(folds)
        found = {case: self.scores[candidate].by_case[case] for case, candidate in chosen.items()}
        return Scores(found) if found else None

    def chosen_by_others(self, folds: Sequence[Collection[str]]) -> dict[str, PostProcessing]:
        """Return for each case the candidate that the other folds choose; nothing for a single fold.

        A case thus has no influence on the candidate that it is scored with.

        Args:
            folds: cases of each fold.
        """
        chosen: dict[str, PostProcessing] = {}
        for held_out in folds if len(folds) > 1 else ():
            others = Choice(
                {
                    candidate: Scores({case: of for case, of in scores.by_case.items() if case not in held_out})
                    for candidate, scores in self.scores.items()
                },
                self.ranked,
            )
            chosen |= dict.fromkeys(held_out, others.best)
        return chosen


def choose_postprocessing(
    masks: Mapping[str, Path],
    cases: Mapping[str, RawCase],
    candidates: Sequence[PostProcessing] = CANDIDATES,
    scoring: Scoring = KITS19,
) -> Choice:
    """Score each candidate on each mask against that case's ground truth, on the scan's own grid.

    Args:
        masks: by case.
        cases: with scan and ground truth, by case.
        candidates: at least one.
        scoring: structures to score.

    Raises:
        CaseError: if a mask has another grid than its scan and ground truth, or classes that the data set lacks, or a
            file cannot be read.
    """
    scores = {candidate: Scores() for candidate in candidates}
    for case_id, path in masks.items():
        mask, scan, ground_truth = _read(path, cases[case_id], scoring)
        for candidate in candidates:
            values = scoring.scores(candidate(mask.voxels, scan), ground_truth.voxels)
            scores[candidate].by_case[case_id] = values
    return Choice(scores, scoring.ranked)


def score_masks(
    masks: Mapping[str, Path],
    cases: Mapping[str, RawCase],
    postprocessing: Mapping[str, PostProcessing],
    scoring: Scoring,
) -> Scores:
    """Score each mask after its post-processing by Dice, surface scores and lesions; all mappings are by case.

    Raises:
        CaseError: see :func:`choose_postprocessing`.
    """
    scores = Scores(lesion_classes=tuple(scoring.lesions))
    for case_id, path in masks.items():
        mask, scan, ground_truth = _read(path, cases[case_id], scoring)
        pair = postprocessing[case_id](mask.voxels, scan), ground_truth.voxels
        scores.by_case[case_id] = scoring.scores(*pair, ground_truth.spacing_mm)
        scores.lesions[case_id] = scoring.find_lesions(*pair, ground_truth.grid.voxel_ml)
    return scores


def _read(path: Path, case: RawCase, scoring: Scoring) -> tuple[LabelMap, Scan, LabelMap]:
    mask, scan = read_labels(path), read_scan(case.image, case.options)
    ground_truth = read_labels(case.label, case.options)
    if not (same_grid(mask, scan) and same_grid(mask, ground_truth)):
        raise CaseError(f"{path}: is on another grid than {case.image} or {case.label}; predict that scan again")
    known = {0}.union(*scoring.structures.values())
    if unknown := sorted({int(value) for value in np.unique(mask.voxels)} - known):
        raise CaseError(
            f"{path}: contains the value {unknown[0]}, which is no class of this data set; name with --data-dir the "
            "data set that the networks were trained on"
        )
    return mask, scan, ground_truth
