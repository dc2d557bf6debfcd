"""Networks made of networks: several of them, or one over mirror images, by their mean logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import nn


class Ensemble(nn.Module):
    """The mean of several networks' logits.

    Maps (B, C, D, H, W) to the members' common output shape. One output is held beside the sum, however many
    members there are.

    Args:
        members: at least one; all must give the same classes for the same input.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one network")
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self.members
        total = first(x)
        for network in others:
            total = total + network(x)
        return total / len(self.members)


class Mirrored(nn.Module):
    """The mean of a network's logits over all mirror images of its input, each mirrored back.

    Takes ``2 ** len(axes)`` times as long and no more memory than two outputs.

    Args:
        network: maps (B, C, D, H, W) to (B, classes, D, H, W).
        axes: spatial axes to mirror along, 0 to 2 for D, H, W; none leaves the network as it is.
    """

    def __init__(self, network: nn.Module, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"axes must be different ones of 0, 1 and 2, got {tuple(axes)}")
        self.network = network
        dims = [axis + 2 for axis in axes]
        self.flips = [some for count in range(1, len(dims) + 1) for some in combinations(dims, count)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.network(x)
        for dims in self.flips:
            total = total + self.network(x.flip(dims)).flip(dims)
        return total / (len(self.flips) + 1)
