"""Average logits over several networks, or over flipped inputs of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import nn

#: Maps (B, C, D, H, W) to logits (B, classes, D, H, W): a network, or a function that runs one.
Forward = Callable[[torch.Tensor], torch.Tensor]


def mean_of(members: Iterable[Forward], x: torch.Tensor) -> torch.Tensor:
    """Return the mean of the outputs of one or more networks for ``x``."""
    first, *others = members
    total = first(x)
    for network in others:
        total = total + network(x)
    return total / (1 + len(others))


def mean_over_flips(network: Forward, flips: Sequence[tuple[int, ...]], x: torch.Tensor) -> torch.Tensor:
    """Return the mean output of a network for ``x`` and for each flip of it.

    Each flipped output is flipped back before it is averaged.

    Args:
        flips: dimensions of ``x`` (B, C, D, H, W) to flip together; spatial ones start at 2.
    """
    total = network(x)
    for dims in flips:
        total = total + network(x.flip(dims)).flip(dims)
    return total / (1 + len(flips))


class Ensemble(nn.Module):
    """Average the logits of several networks.

    Maps (B, C, D, H, W) to the common output shape. Memory holds at most three outputs, for any number of members.

    Args:
        members: at least one network; all must return the same classes for the same input.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one network")
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mean_of(self.members, x)


class FlipTTA(nn.Module):
    """Average a network's logits over all flips of its input: test-time augmentation (TTA) by flipping.

    Each output is flipped back. This takes ``2 ** len(axes)`` times as long and holds at most four outputs in memory.

    Args:
        network: maps (B, C, D, H, W) to (B, classes, D, H, W).
        axes: spatial axes to flip, 0 to 2 for D, H, W; an empty sequence leaves the network unchanged.
    """

    def __init__(self, network: nn.Module, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"axes must be distinct and among 0, 1 and 2, got {tuple(axes)}")
        self.network = network
        dims = [axis + 2 for axis in axes]
        self.flips = [some for count in range(1, len(dims) + 1) for some in combinations(dims, count)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mean_over_flips(self.network, self.flips, x)

    def extra_repr(self) -> str:
        return f"flips={self.flips}"
