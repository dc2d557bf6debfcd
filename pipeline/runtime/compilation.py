"""Compile networks with torch."""

from __future__ import annotations

import os
import shutil

from torch import nn

from ..device import Accelerator, DeviceError


def can_compile(accelerator: Accelerator) -> bool:
    """Return True if torch's compiler works here; on a CPU it needs a C++ compiler (g++ or ``CXX``)."""
    return not accelerator.on_cpu or shutil.which(os.environ.get("CXX", "g++")) is not None


def compiled(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Compile ``network`` in place at its first step, with the operations between convolutions fused.

    The names of weights and the results do not change.

    Raises:
        DeviceError: if a CPU has no C++ compiler.
    """
    if not can_compile(accelerator):
        raise DeviceError("`compiled` needs a C++ compiler (g++, or CXX); install one, or leave out `compiled`")
    network.compile()
    return network
