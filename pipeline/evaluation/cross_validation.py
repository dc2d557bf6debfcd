"""Predict each case by the network that has not seen it, and choose the post-processing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..data import RawCase
from ..device import Accelerator
from ..inference import PostProcessing, Predictor, Results
from ..inference.batch import Batch
from ..io import Found
from ..io.deidentification import anonymous
from ..io.labels import read_labels
from ..io.scan import read_scan, same_grid
from ..runtime.errors import CaseError, UsageError
from . import Scores, kits19_scores
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
        scores: kidney and tumour Dice by case of each candidate, in their order.
    """

    scores: Mapping[PostProcessing, Scores]

    @property
    def means(self) -> dict[PostProcessing, float]:
        """Return the mean of kidney and tumour Dice over all cases, by candidate."""
        return {
            candidate: float(np.mean([value for value in scores.mean.values() if value is not None]))
            for candidate, scores in self.scores.items()
        }

    @property
    def best(self) -> PostProcessing:
        """Return the candidate with the highest mean; of equal ones the first, which removes the least."""
        means = self.means
        return max(means, key=lambda candidate: means[candidate])

    def unseen(self, folds: Sequence[Collection[str]]) -> Scores | None:
        """Score each fold's cases with the candidate that the other folds choose; None for a single fold.

        A case thus has no influence on the candidate that it is scored with.

        Args:
            folds: cases of each fold.
        """
        if len(folds) < 2:
            return None
        found = Scores()
        for held_out in folds:
            others = Choice(
                {
                    candidate: Scores({case: of for case, of in scores.by_case.items() if case not in held_out})
                    for candidate, scores in self.scores.items()
                }
            )
            found.by_case |= {case: self.scores[others.best].by_case[case] for case in held_out}
        return found


def choose_postprocessing(
    masks: Mapping[str, Path], cases: Mapping[str, RawCase], candidates: Sequence[PostProcessing] = CANDIDATES
) -> Choice:
    """Score each candidate on each mask against that case's ground truth, on the scan's own grid.

    Args:
        masks: by case.
        cases: with scan and ground truth, by case.
        candidates: at least one.

    Raises:
        CaseError: if a mask lies on another grid than its scan and ground truth, or a file cannot be read.
    """
    scores = {candidate: Scores() for candidate in candidates}
    for case_id, path in masks.items():
        for candidate, values in _tried(path, cases[case_id], candidates):
            scores[candidate].by_case[case_id] = values
    return Choice(scores)


def _tried(
    path: Path, case: RawCase, candidates: Sequence[PostProcessing]
) -> Iterable[tuple[PostProcessing, dict[str, float | None]]]:
    mask, scan = read_labels(path), read_scan(case.image, case.options)
    ground_truth = read_labels(case.label, case.options)
    if not (same_grid(mask, scan) and same_grid(mask, ground_truth)):
        raise CaseError(f"{path}: is on another grid than {case.image} or {case.label}; predict that scan again")
    for candidate in candidates:
        yield candidate, kits19_scores(candidate(mask.voxels, scan), ground_truth.voxels)
