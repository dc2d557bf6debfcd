"""What tensors on a CPU leave, kept for those that come."""

from __future__ import annotations

import ctypes
import platform
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..device import Accelerator

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory(accelerator: Accelerator, keep: bool = True) -> None:
    """On a CPU, keeps freed memory for the next tensors, as cards do of themselves; or no longer does.

    glibc gives a tensor of more than 32 MB back at once, and the next one gets pages that are zeroed first, which
    takes a quarter of a training step. Kept memory does not fall between steps. Other C libraries stay as they are.
    """
    if accelerator.on_cpu and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0 if keep else 65536)
        mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 * 1024)


def recomputed(network: nn.Module) -> nn.Module:
    """``network``, whose blocks keep their inputs alone during training and compute the rest a second time.

    Its blocks are its children, or the members of a child that is a list; not one that holds others of them, as MONAI's
    `DynUNet` has, for within it they would be computed a third time. Names of weights, results and gradients stay what
    they are; without gradients nothing changes.
    """
    children = [
        block for child in network.children() for block in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for block in children:
        if any(inner in children for inner in block.modules() if inner is not block):
            continue
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network
