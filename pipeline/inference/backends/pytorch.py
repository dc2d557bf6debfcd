"""Run a network with PyTorch: eagerly, in the channels-last layout, or compiled."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...device import Accelerator, DeviceError
from ...runtime.compilation import to_compile
from .agreement import MissingBackendError


class Eager:
    """Run any network on any device.

    Args:
        network: on the device, in evaluation mode.
        accelerator: sets the precision.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        self.network, self.accelerator = network, accelerator

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of windows (B, C, D, H, W)."""
        with self.accelerator.autocast():
            return self.network(window).float()  # type: ignore[no-any-return]


class ChannelsLast(Eager):
    """Run a copy of the network in the memory layout in which a CPU convolves fastest.

    Instance norm would copy to the other layout and back, which costs the gain. Group norm with one group per channel
    is the same function and keeps the layout. Only its backward pass is slow, and inference does not need it.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(channels_last(network), accelerator)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        return super().__call__(window.to(memory_format=torch.channels_last_3d))


def channels_last(network: nn.Module) -> nn.Module:
    """Copy a network for inference in ``channels_last_3d``, with its instance norms replaced by equal group norms."""
    copied = copy.deepcopy(network).eval()
    for parent in list(copied.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.InstanceNorm3d) and not norm.track_running_stats:
                group = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, affine=False)
                group.weight, group.bias = norm.weight, norm.bias
                setattr(parent, name, group)
    return copied.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


class Compiled(Eager):
    """Run the network compiled for windows of one shape.

    The first window of a process takes up to half a minute. torch caches the output of the C++ compiler, so that the
    next process takes less. On an accelerator whose compiler does not work, the network runs eagerly.

    Raises:
        MissingBackendError: on a CPU without a C++ compiler, or with a torch that is too old.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        try:
            compiles = to_compile(accelerator)
        except DeviceError as error:
            raise MissingBackendError(f"the inference backend compiled: {error}") from error
        if accelerator.on_cpu:
            network = ChannelsLast(network, accelerator).network
        super().__init__(torch.compile(network, dynamic=False) if compiles else network, accelerator)  # type: ignore[arg-type]

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        # One by one, since another number of windows is another shape.
        return torch.cat([super(Compiled, self).__call__(one[None]) for one in window])
