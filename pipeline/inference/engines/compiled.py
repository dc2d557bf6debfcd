"""The network through torch's compiler."""

from __future__ import annotations

import torch
from torch import nn

from ...compilation import can_compile
from ...device import Accelerator
from .eager import ChannelsLast, Eager
from .errors import MissingEngineError


class Compiled(Eager):
    """The network compiled for windows of one shape: up to half a minute at the first window, once a process.

    torch keeps what the C++ compiler made in its own cache, so that the next process takes less.

    Raises:
        MissingEngineError: on a CPU without a C++ compiler.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        if not can_compile(accelerator):
            raise MissingEngineError("the engine compiled needs a C++ compiler (g++, or CXX); install one")
        if accelerator.on_cpu:
            network = ChannelsLast(network, accelerator).network
        super().__init__(torch.compile(network, dynamic=False), accelerator)  # type: ignore[arg-type]

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        # One by one: another number of windows would be another shape.
        return torch.cat([super(Compiled, self).__call__(one[None]) for one in window])
