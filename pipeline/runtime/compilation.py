"""Compile networks with torch."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from ..device import Accelerator, DeviceError, cpu_instructions


def can_compile(accelerator: Accelerator) -> bool:
    """Return True if torch's compiler works here; on a CPU it needs a C++ compiler (g++ or ``CXX``)."""
    return not accelerator.on_cpu or shutil.which(os.environ.get("CXX", "g++")) is not None


def separate_caches() -> None:
    """Keep networks compiled for one kind of CPU apart from those for another in torch's cache.

    torch leaves the CPU's instructions out of the cache's key. A network compiled for AVX2 gave NaN or ended the
    process where AVX-512 was in use, and the other way round (torch 2.13). That happens when two machines share a cache
    directory, or when ``ATEN_CPU_CAPABILITY`` is set for one run.
    """
    instructions = [cpu_instructions(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    given = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    torch.compiler.config.cache_key_tag = "-".join(filter(None, [given, *instructions]))


def compiled(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Compile ``network`` in place at its first step, with the operations between convolutions fused.

    The names of weights and the results do not change.

    Raises:
        DeviceError: if a CPU lacks a C++ compiler.
    """
    if not can_compile(accelerator):
        raise DeviceError("`compiled` needs a C++ compiler (g++, or CXX); install one, or leave out `compiled`")
    separate_caches()
    network.compile()
    return network
