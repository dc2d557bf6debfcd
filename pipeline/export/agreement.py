"""Whether an exported network computes what the original does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kits_unet3d.networks import CheckpointError

#: Largest difference of a logit that rounding explains.
TOLERANCE = 1e-4


def require_agreement(
    original: Callable[[torch.Tensor], torch.Tensor],
    exported: Callable[[torch.Tensor], torch.Tensor],
    shape: Sequence[int],
    path: Path,
) -> None:
    """Compares the logits of both for one window of noise.

    Raises:
        CheckpointError: if they differ by more than 1e-4, relative to the largest logit where that is above 1.
    """
    window = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = original(window), exported(window)
    difference = float((expected - got).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{path}: not written, since its logits differ by {difference:.2g} from the network's; "
            "the checkpoint holds values out of range, or this version of torch exports it wrongly"
        )
