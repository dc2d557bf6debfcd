"""Networks made of networks: several of them, or one over mirror images, by their mean logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import nn

#: What maps (B, C, D, H, W) to logits (B, classes, D, H, W): a network, or what runs one.
Forward = Callable[[torch.Tensor], torch.Tensor]


def mean_of(members: Iterable[Forward], x: torch.Tensor) -> torch.Tensor:
    """The mean of what several networks give for ``x``, of which at least one."""
    first, *others = members
    total = first(x)
    for network in others:
        total = total + network(x)
    return total / (1 + len(others))


def mean_over_mirrors(network: Forward, flips: Sequence[tuple[int, ...]], x: torch.Tensor) -> torch.Tensor:
    """The mean of what a network gives for ``x`` and for its images flipped along each of ``flips``, flipped back.

    Args:
        flips: dimensions of ``x`` (B, C, D, H, W), from 2.
    """
    total = network(x)
    for dims in flips:
        total = total + network(x.flip(dims)).flip(dims)
    return total / (1 + len(flips))


class Ensemble(nn.Module):
    """The mean of several networks' logits.

    Maps (B, C, D, H, W) to the members' common output shape. At most three outputs are held at a time, however many
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
        return mean_of(self.members, x)


class Mirrored(nn.Module):
    """The mean of a network's logits over all mirror images of its input, each mirrored back.

    Takes ``2 ** len(axes)`` times as long, and holds at most four outputs at a time.

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
        return mean_over_mirrors(self.network, self.flips, x)

    def extra_repr(self) -> str:
        return f"flips={self.flips}"
