"""What stands between a configuration and ``trainer.run()``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from kits_unet3d.transforms import Recipe

from ..data import Index
from ..device import Accelerator, seed_everything
from ..errors import UsageError

logger = logging.getLogger("kits_unet3d.training")


def start(dataset_dir: str | Path, recipe: Recipe, accelerator: Accelerator, seed: int) -> None:
    """Checks that there are data prepared as the configuration says, seeds, logs the device.

    Ends the program with one sentence and exit code 2 if the data do not serve; a configuration's run has
    no other way to speak to its user.
    """
    try:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UsageError("training in several processes is not there yet; start one")
        index = Index.read(dataset_dir)
        for name in ("spacing_mm", "hu_window", "hu_mean", "hu_std", "roi_size", "classes"):
            prepared, wanted = getattr(index.recipe, name), getattr(recipe, name)
            if prepared != wanted:
                raise UsageError(
                    f"{dataset_dir}: was prepared with {name} {prepared}, but this configuration says "
                    f"{wanted}; prepare again with `kits-unet3d prepare --config` and this configuration"
                )
        for split in ("training", "evaluation"):
            if not index.data_list(split):
                raise UsageError(f"{dataset_dir}: holds no {split} case; prepare more cases")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    seed_everything(seed)
    logger.info("device: %s", accelerator.describe())
