"""What stands between a configuration and ``trainer.run()``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from kits_unet3d.transforms import Recipe

from .. import distributed
from ..data import Index
from ..device import Accelerator, seed_everything
from ..errors import UsageError

logger = logging.getLogger("kits_unet3d.training")


def start(dataset_dir: str | Path, recipe: Recipe, accelerator: Accelerator, seed: int) -> None:
    """Checks that there are data prepared as the configuration says, joins the processes, seeds, logs the device.

    Ends the program with one sentence and exit code 2 if the data do not serve; a configuration's run has
    no other way to speak to its user.
    """
    try:
        index = Index.read(dataset_dir)
        for name in ("spacing_mm", "hu_window", "roi_size"):
            prepared, wanted = getattr(index.recipe, name), getattr(recipe, name)
            if prepared != wanted:
                raise UsageError(
                    f"{dataset_dir}: was prepared with {name} {list(prepared)}, but this configuration says "
                    f"{list(wanted)}; prepare again with `kits-unet3d prepare --config` and this configuration"
                )
        for split in ("training", "evaluation"):
            if not index.data_list(split):
                raise UsageError(f"{dataset_dir}: holds no {split} case; prepare more cases")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    distributed.join(accelerator)
    seed_everything(seed)
    logger.info("device: %s", accelerator.describe())
