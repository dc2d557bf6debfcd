"""The network as torch runs it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...device import Accelerator


class Eager:
    """Any network on any device.

    Args:
        network: on the device, in evaluation mode.
        accelerator: gives the precision.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        self.network, self.accelerator = network, accelerator

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Logits, float32, of windows (B, C, D, H, W)."""
        with self.accelerator.autocast():
            return self.network(window).float()  # type: ignore[no-any-return]


class ChannelsLast(Eager):
    """A copy of the network in the memory layout that a CPU convolves fastest in.

    Instance norm would copy to the other layout and back, which eats the gain. Group norm with a group for each
    channel is the same function and stays in the layout; only its backward is slow, which is not needed here.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(channels_last(network), accelerator)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        return super().__call__(window.to(memory_format=torch.channels_last_3d))


def channels_last(network: nn.Module) -> nn.Module:
    """A copy for inference in ``channels_last_3d``, its instance norms replaced by equal group norms."""
    copied = copy.deepcopy(network).eval()
    for parent in list(copied.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.InstanceNorm3d) and not norm.track_running_stats:
                group = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, affine=False)
                group.weight, group.bias = norm.weight, norm.bias
                setattr(parent, name, group)
    return copied.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]
