"""Check that an inference backend computes the same logits as the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kits_unet3d.networks import CheckpointError

from ..runtime.errors import UsageError

#: Largest difference of a logit, by precision; relative to the largest logit if that exceeds 1.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
#: Least share of a noise window's voxels that must keep their class, by precision.
SAME_CLASS = {"fp32": 0.999, "bf16": 0.9}


def require_agreement(
    network: Callable[[torch.Tensor], torch.Tensor],
    backend: Callable[[torch.Tensor], torch.Tensor],
    window: Sequence[int],
    precision: str,
) -> None:
    """Compare an inference backend with the network in FP32 on one noise window (1, C, D, H, W).

    Raises:
        DisagreementError: if they differ by more than the precision explains; contains the largest difference.
    """
    noise = torch.randn(tuple(window), generator=torch.Generator().manual_seed(0))
    expected, got = network(noise), backend(noise)
    difference = float((expected - got).abs().max()) / max(1.0, float(expected.abs().max()))
    same = float((expected.argmax(1) == got.argmax(1)).float().mean())
    if not (difference <= TOLERANCE[precision] and same >= SAME_CLASS[precision]):
        raise DisagreementError(
            f"its logits differ from the network's by up to {difference:.2g} in {precision} "
            f"({TOLERANCE[precision]:g} is allowed), and {same:.2%} of the voxels keep their class"
        )


class MissingBackendError(UsageError):
    """Report that an inference backend needs a missing package, or another device or precision."""


class DisagreementError(UsageError):
    """Report that an inference backend's logits differ from the network's."""


#: Largest difference of a logit that rounding can cause.
SAME_LOGITS = 1e-4


def require_same_logits(
    original: Callable[[torch.Tensor], torch.Tensor],
    exported: Callable[[torch.Tensor], torch.Tensor],
    shape: Sequence[int],
    path: Path,
) -> None:
    """Compare the logits of the original and the exported network on one noise window.

    Raises:
        CheckpointError: if they differ by more than 1e-4; relative to the largest logit if that exceeds 1.
    """
    window = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = original(window), exported(window)
    difference = float((expected - got).abs().max())
    if not difference <= SAME_LOGITS * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{path}: not written, since its logits differ by {difference:.2g} from the network's; "
            "the checkpoint contains values out of range, or this version of torch exports it wrongly"
        )
