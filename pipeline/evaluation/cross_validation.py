"""Masks of each case by the network that has not seen it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..data import RawCase
from ..device import Accelerator
from ..inference import PostProcessing, Predictor
from ..inference.batch import Batch
from ..io import Found
from ..io.deidentification import anonymous
from ..io.scan import read_scan, same_grid
from ..runtime.errors import CaseError, UsageError
from . import Scores, kits19_scores
from .fold_results import FoldResult
from .folders import find_masks


def out_of_fold_masks(
    result: FoldResult,
    cases: Mapping[str, RawCase],
    accelerator: Accelerator,
    engine: str = "auto",
    limit: float = float("inf"),
) -> dict[str, Path]:
    """The masks of a training's held out cases on their scans' own grids, by case.

    They are written to ``masks`` in the training's folder; what is there already, of the same scan and model, is left.

    Args:
        result: of the training.
        cases: raw, by case; its held out ones at least.
        accelerator: to predict on.
        engine: what runs the network.
        limit: bytes of memory a scan may need.

    Raises:
        UsageError: if ``cases`` lacks one of them, or a scan could not be predicted.
    """
    lacking = sorted(set(result.evaluation_cases) - set(cases))
    if lacking:
        raise UsageError(f"{result.folder}: held out {lacking[0]}, which the data set does not have; name its raw data")
    folder = result.folder / "masks"
    scans = {case_id: Found(cases[case_id].image, case_id) for case_id in result.evaluation_cases}
    batch = Batch(Predictor(result.checkpoint, accelerator, engine=engine), folder, limit=limit, page=False)
    failed = batch.run(list(scans.values()))
    if failed:
        raise UsageError(f"{folder}: {', '.join(failed)} could not be predicted; {folder / 'summary.json'} says why")
    masks = find_masks(folder)
    return {case_id: masks[anonymous(found, found.identity).name] for case_id, found in scans.items()}


#: What is tried, from taking nothing out to taking out the most; sizes in mm³ (500 is a ball of 1 cm).
CANDIDATES = tuple(
    PostProcessing(keep, touch, least)
    for least, touch, keep in product((0.0, 50.0, 200.0, 500.0), (False, True), (False, True))
)


@dataclass(frozen=True)
class Choice:
    """What was tried, and the best of it.

    Attributes:
        scores: kidney and tumour Dice by case of each candidate, in their order.
    """

    scores: Mapping[PostProcessing, Scores]

    @property
    def means(self) -> dict[PostProcessing, float]:
        """The mean of kidney and tumour Dice over all cases, by candidate."""
        return {
            candidate: float(np.mean([value for value in scores.mean.values() if value is not None]))
            for candidate, scores in self.scores.items()
        }

    @property
    def best(self) -> PostProcessing:
        """The candidate of the highest mean; of equal ones the first, which takes out the least."""
        means = self.means
        return max(means, key=lambda candidate: means[candidate])

    def unseen(self, folds: Sequence[Collection[str]]) -> Scores | None:
        """The scores of each fold's cases under what the other folds choose, and so of cases that had no say in it.

        None for a single fold.

        Args:
            folds: the cases of each.
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
    """Scores each candidate on each mask against that case's truth, on the scan's own grid.

    Args:
        masks: by case.
        cases: with scan and truth, by case.
        candidates: at least one.

    Raises:
        CaseError: if a mask lies on another grid than its scan and truth, or one of them cannot be read.
    """
    scores = {candidate: Scores() for candidate in candidates}
    for case_id, path in masks.items():
        for candidate, values in _tried(path, cases[case_id], candidates):
            scores[candidate].by_case[case_id] = values
    return Choice(scores)


def _tried(
    path: Path, case: RawCase, candidates: Sequence[PostProcessing]
) -> Iterable[tuple[PostProcessing, dict[str, float | None]]]:
    mask, scan, truth = read_scan(path), read_scan(case.image), read_scan(case.label)
    if not (same_grid(mask, scan) and same_grid(mask, truth)):
        raise CaseError(f"{path}: lies on another grid than {case.image} or {case.label}; predict that scan again")
    labels = mask.voxels.astype(np.uint8)
    for candidate in candidates:
        yield candidate, kits19_scores(candidate(labels, scan), truth.voxels)
