"""Less memory for more time: activations computed again where the backward pass needs them."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


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
