"""Less memory for more time: activations computed again where the backward pass needs them."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(network: nn.Module) -> nn.Module:
    """``network``, whose blocks keep their inputs alone during training and compute the rest a second time.

    Its blocks are its children, or the members of a child that is a list. Names of weights, results and gradients stay
    what they are; without gradients nothing changes.
    """
    blocks = [
        block for child in network.children() for block in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network
