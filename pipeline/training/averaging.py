"""Average weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kits_unet3d.networks import load_weights


def bare(network: nn.Module) -> nn.Module:
    """Return the network inside a DistributedDataParallel, or the network itself."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network  # type: ignore[return-value]


class WeightAverage:
    """Keep an exponential moving average of a network's weights, for evaluation and inference.

    Args:
        network: the trained network, possibly wrapped for several processes.
        decay: factor of the old average in each step, in [0, 1); 0.99 covers about a hundred steps. None disables
            the average, so the weights themselves are used, as in the reference.

    Attributes:
        network: the network with averaged weights, or the trained network itself without an average.
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
        """Add the current weights to the average; call it after each optimiser step."""
        if self._average is not None:
            self._average.update_parameters(bare(self.trained))

    def capture(self) -> dict[str, Any]:
        """Return the weights to use as ``model``, and the trained ones as ``trained_model`` if they differ."""
        weights = {"model": bare(self.network).state_dict()}
        return weights if self._average is None else {**weights, "trained_model": bare(self.trained).state_dict()}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Load the result of :meth:`capture`."""
        load_weights(bare(self.network), content["model"])
        if self._average is not None:
            load_weights(bare(self.trained), content["trained_model"])
            self._average.n_averaged.fill_(1)  # with 0 the next step would start a new average
