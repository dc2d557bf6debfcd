"""Masks of each case by the network that has not seen it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..data import RawCase
from ..device import Accelerator
from ..errors import UsageError
from ..evaluation.folders import find_masks
from ..inference import Predictor
from ..inference.batch import Batch
from ..inference.reading import find_scans
from .results import FoldResult


def out_of_fold_masks(
    result: FoldResult, cases: Mapping[str, RawCase], accelerator: Accelerator, engine: str = "auto"
) -> dict[str, Path]:
    """The masks of a training's held out cases on their scans' own grids, by case.

    They are written to ``masks`` in the training's folder; what is there already, of the same scan and model, is left.

    Raises:
        UsageError: if ``cases`` lacks one of them, or a scan could not be predicted.
    """
    lacking = sorted(set(result.evaluation_cases) - set(cases))
    if lacking:
        raise UsageError(f"{result.folder}: held out {lacking[0]}, which the data set does not have; name its raw data")
    folder = result.folder / "masks"
    scans = find_scans([cases[case_id].image for case_id in result.evaluation_cases])
    failed = Batch(Predictor(result.checkpoint, accelerator, engine=engine), folder, page=False).run(scans)
    if failed:
        raise UsageError(f"{folder}: {', '.join(failed)} could not be predicted; {folder / 'summary.json'} says why")
    masks = find_masks(folder)
    return {case_id: masks[case_id] for case_id in result.evaluation_cases}
