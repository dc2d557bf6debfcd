"""Engines of networks that are means of others: one for each of those, and the mean outside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from kits_unet3d.networks import Ensemble, Mirrored
from kits_unet3d.networks.averages import mean_of, mean_over_mirrors

from .choice import Engine


def averaged(network: nn.Module, windows: float, make: Callable[[nn.Module, float], Engine]) -> Engine:
    """The engine of a network that may be an ensemble, mirrored, or both.

    As one graph, five networks over eight mirror images would be forty copies for a compiler to work through.

    Args:
        network: on the device, in evaluation mode.
        windows: how many a scan has.
        make: an engine for a single network and the number of windows that it will see.
    """
    if isinstance(network, Mirrored):
        one = averaged(network.network, windows * (1 + len(network.flips)), make)
        return partial(mean_over_mirrors, one, network.flips)
    if isinstance(network, Ensemble):
        return partial(mean_of, [averaged(member, windows, make) for member in network.members])
    return make(network, windows)
