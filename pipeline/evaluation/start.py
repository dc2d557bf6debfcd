"""What stands between a configuration and ``evaluator.run()``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import Recipe

from ..data import require_data
from ..device import Accelerator
from ..errors import told_in_a_sentence

logger = logging.getLogger("kits_unet3d.evaluation")


def start(
    dataset_dir: str | Path, recipe: Recipe, accelerator: Accelerator, evaluation_data: Sequence[Mapping[str, Any]]
) -> None:
    """Checks that there are evaluation cases prepared as the model wants them, enough for all processes; logs
    the device.

    Ends the program with one sentence and exit code 2 if the data do not serve.
    """
    with told_in_a_sentence():
        require_data(dataset_dir, recipe, evaluation_data)
    logger.info("device: %s", accelerator.describe())
