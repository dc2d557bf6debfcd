"""Compile networks with torch, on devices where its compiler works."""

from __future__ import annotations

import logging
import os
import shutil
from functools import cache

import torch
from torch import nn

from ..device import Accelerator
from .errors import DeviceError

logger = logging.getLogger(__name__)
#: Largest accepted difference of a compiled network's values from the network's own.
TOLERANCE = 1e-3


def obstacle(accelerator: Accelerator) -> str:
    """Return why torch's compiler cannot be used on a device; empty if it can.

    On a CPU it needs a C++ compiler (g++ or ``CXX``). On any other device a small network is compiled and compared
    first, once per process, since not every vendor's torch has a compiler that works.
    """
    if not hasattr(getattr(torch.compiler, "config", None), "cache_key_tag"):
        return f"the compiler of torch {torch.__version__} mixes up networks compiled on different CPUs; use torch 2.10"
    if accelerator.on_cpu:
        found = shutil.which(os.environ.get("CXX", "g++")) is not None
        return "" if found else "torch's compiler needs a C++ compiler (g++, or CXX); install one"
    separate_caches(accelerator)
    return _tried(accelerator.device)


@cache
def _tried(device: torch.device) -> str:
    """Compile a small network, compare its results with the network's own, and return the fault."""
    with torch.random.fork_rng(devices=()):
        network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.ReLU()).to(device)
    image = torch.linspace(-1, 1, 512).reshape(1, 1, 8, 8, 8).to(device)
    results = []
    try:
        for run in (network, torch.compile(network, dynamic=False)):
            network.zero_grad()
            logits = run(image)
            logits.square().sum().backward()
            results.append((logits.detach().cpu(), network[0].weight.grad.cpu()))  # type: ignore[union-attr, operator]
    except Exception as error:  # compilers fail in many ways
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])
        return f"torch's compiler fails on {device} ({reason})"
    expected, got = results
    difference = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, got, strict=True))
    return "" if difference <= TOLERANCE else f"torch's compiler changes results on {device} by {difference:.1e}"


def can_compile(accelerator: Accelerator) -> bool:
    """Return True if torch's compiler works on this device."""
    return not obstacle(accelerator)


def to_compile(accelerator: Accelerator) -> bool:
    """Return whether to compile a network; log a warning on a device whose compiler does not work.

    Raises:
        DeviceError: on a CPU without a C++ compiler, or with a torch that is too old.
    """
    if reason := obstacle(accelerator):
        if accelerator.on_cpu:
            raise DeviceError(f"{reason}, or leave out `compiled`")
        logger.warning(f"`compiled` is left out: {reason}")
        return False
    separate_caches(accelerator)
    return True


def separate_caches(accelerator: Accelerator) -> None:
    """Separate the networks in torch's cache by the kind of CPU that they are compiled for.

    torch leaves the CPU's instructions out of the cache's key. A network compiled for AVX2 gave NaN or ended the
    process where AVX-512 was in use, and the other way round (torch 2.13). That happens when two machines share a cache
    directory, or when ``ATEN_CPU_CAPABILITY`` is set for one run.
    """
    instructions = [accelerator.describe()["instructions"], os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    given = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    torch.compiler.config.cache_key_tag = "-".join(filter(None, [given, *instructions]))


def compiled(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Compile ``network`` in place at its first step, with the operations between convolutions fused.

    The names of weights and the results do not change. Where :func:`to_compile` is False the network stays as it is.
    """
    if to_compile(accelerator):
        network.compile()
    return network
