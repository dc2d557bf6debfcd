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
from ..inference.reading import Found
from ..inference.reading.privacy import anonymous
from .results import FoldResult


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
