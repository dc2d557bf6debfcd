"""Weights averaged over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kits_unet3d.networks import load_weights


def bare(network: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel, or itself."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network  # type: ignore[return-value]


class WeightAverage:
    """An exponential moving average of a network's weights, which is what is evaluated and used.

    Args:
        network: as trained, possibly wrapped for many processes.
        decay: what a step leaves of the average, in [0, 1); 0.99 looks back about a hundred steps. None for no
            average: the weights themselves are used, as in the reference.

    Attributes:
        network: with the averaged weights; without an average the trained network itself.
    """

    def __init__(self, network: nn.Module, decay: float | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"average_decay must be in [0, 1) or null, got {decay}")
        self.trained = network
        self._average = None
        if decay is not None:
            self._average = AveragedModel(bare(network), multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.network: nn.Module = network if self._average is None else self._average.module

    def update(self) -> None:
        """Takes the present weights in; after each step of the optimiser."""
        if self._average is not None:
            self._average.update_parameters(bare(self.trained))

    def capture(self) -> dict[str, Any]:
        """``model``: the weights to use; ``trained_model``: those to train on, where they are others."""
        weights = {"model": bare(self.network).state_dict()}
        return weights if self._average is None else {**weights, "trained_model": bare(self.trained).state_dict()}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Takes over what :meth:`capture` gave."""
        load_weights(bare(self.network), content["model"])
        if self._average is not None:
            load_weights(bare(self.trained), content["trained_model"])
            self._average.n_averaged.fill_(1)  # 0 would let the next step begin a new average
