"""Networks through torch's compiler."""

from __future__ import annotations

import os
import shutil

from torch import nn

from ..device import Accelerator, DeviceError


def can_compile(accelerator: Accelerator) -> bool:
    """Whether torch's compiler works here: for a CPU it needs a C++ compiler (g++, or what ``CXX`` names)."""
    return not accelerator.on_cpu or shutil.which(os.environ.get("CXX", "g++")) is not None


def compiled(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """``network`` itself, whose code is made at its first step, with what lies between convolutions fused.

    Names of weights and results stay what they are.

    Raises:
        DeviceError: without a C++ compiler on a CPU.
    """
    if not can_compile(accelerator):
        raise DeviceError("`compiled` needs a C++ compiler (g++, or CXX); install one, or leave it out")
    network.compile()
    return network
