"""Trade memory and time: keep freed memory on a CPU, or recompute activations."""

from __future__ import annotations

import ctypes
import platform
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..device import Accelerator

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory(accelerator: Accelerator, keep: bool = True) -> None:
    """Keep freed memory on a CPU for the next tensors, as accelerators do by default, or stop doing so.

    glibc returns a tensor of more than 32 MB to the system at once. The next one gets pages that are zeroed first,
    which takes a quarter of a training step. Kept memory does not fall between steps. Other C libraries are unchanged.
    """
    if accelerator.on_cpu and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0 if keep else 65536)
        mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 * 1024)


def recomputed(network: nn.Module) -> nn.Module:
    """Make the blocks of ``network`` keep only their inputs in training and recompute the rest; return ``network``.

    Blocks are the network's children, or the members of a child that is a list. A block that contains other blocks, as
    in MONAI's `DynUNet`, is left out, because its inner blocks would be computed a third time. Names of weights,
    results and gradients do not change. Without gradients nothing changes.
    """
    children = [
        block for child in network.children() for block in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for block in children:
        if any(inner in children for inner in block.modules() if inner is not block):
            continue
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network
