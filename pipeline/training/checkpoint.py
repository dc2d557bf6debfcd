"""Checkpoints: the best by score and the last, each whole, each saying which network and recipe it is of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from kits_unet3d.transforms import Recipe

from .. import distributed
from ..device import Accelerator
from ..files import whole_file
from ..model import describe_network


def bare(network: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel, or itself."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network  # type: ignore[return-value]


class SaveCheckpoint:
    """Writes ``model.pt`` whenever the evaluator's score is the best so far, ``model_final.pt`` at the end.

    Attach it to the trainer. A run without any evaluation leaves its last state under both names, so that
    inference always finds one.

    Args:
        folder: where to.
        network: as trained, possibly wrapped for many processes.
        optimizer: its state is saved too.
        factory: the network as ``functools.partial``; its class and arguments go into the file.
        recipe: how images are prepared for the network; goes into the file.
        accelerator: described in the file.
        evaluator: whose score decides.
        metric: name of that score.
        every: epochs between saves of ``model_final.pt`` on the way.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        factory: partial[nn.Module],
        recipe: Recipe,
        accelerator: Accelerator,
        evaluator: Engine,
        metric: str,
        every: int = 20,
    ) -> None:
        self.folder, self.network, self.optimizer = Path(folder), network, optimizer
        self.factory, self.recipe, self.accelerator = factory, recipe, accelerator
        self.evaluator, self.metric, self.every = evaluator, metric, every
        self.best: float | None = None
        self.trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self.trainer = engine
        self.evaluator.add_event_handler(Events.COMPLETED, self._scored)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), lambda: self.save("model_final.pt"))
        engine.add_event_handler(Events.COMPLETED, self._finished)

    def _scored(self, evaluator: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        if self.best is None or score > self.best:
            self.best = score
            self.save("model.pt")

    def _finished(self, _: Engine) -> None:
        self.save("model_final.pt")
        if self.best is None:
            self.save("model.pt")

    def content(self) -> dict[str, Any]:
        """Tensors and plain data only, so that ``weights_only=True`` can read it."""
        state = self.trainer.state if self.trainer is not None else None
        return {
            "model": bare(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "network": describe_network(self.factory),
            "recipe": self.recipe.as_dict(),
            "device": self.accelerator.describe(),
            "epoch": state.epoch if state is not None else 0,
            "iteration": state.iteration if state is not None else 0,
            "best": {self.metric: self.best},
        }

    def save(self, name: str) -> None:
        """Writes the present state as ``name``; on the first process only."""
        if distributed.rank() == 0:
            with whole_file(self.folder / name) as temporary:
                torch.save(self.content(), temporary)
