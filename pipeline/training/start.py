"""What stands between a configuration and ``trainer.run()``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import Recipe

from ..data import Index, require_data, training_list
from ..device import Accelerator
from ..errors import told_in_a_sentence

logger = logging.getLogger("kits_unet3d.training")


def start(
    dataset_dir: str | Path,
    recipe: Recipe,
    accelerator: Accelerator,
    cases_a_step: int,
    training_data: Sequence[Mapping[str, Any]],
    evaluation_data: Sequence[Mapping[str, Any]],
) -> None:
    """Checks that the data lists are prepared as the configuration says, and enough for all processes; logs the device.

    With fewer than ``cases_a_step`` for each of them, which is batch size times accumulation, an epoch would end before
    the optimiser's first step, and nothing be trained.

    Ends the program with one sentence and exit code 2 if the data do not serve.
    """
    with told_in_a_sentence():
        require_data(dataset_dir, recipe, evaluation_data, training_data, cases_a_step)
    logger.info("device: %s", accelerator.describe())


def refuse_fold(index: Index, fold: int | None, folds: int) -> None:
    """Ends the program with one sentence and exit code 2 if ``fold`` is none of ``folds``, or the cases are too few.

    A run that holds out no fold gives None.
    """
    with told_in_a_sentence():
        training_list(index, fold, folds)
