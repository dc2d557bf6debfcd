"""Extend a loss to coarser outputs of the network and to regions of several classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import nn


class DeepSupervision(nn.Module):
    """Average a loss over a network's output and its coarser heads, weighted 1, ½, ¼ … and divided by the sum.

    Head k is 2ᵏ times as coarse as the output. At full size it repeats each of its values 2ᵏ times along each axis. The
    loss of head k uses only one voxel of these repeats, the one just after their middle, and the label there. So it
    uses each value of the head once, and each level takes an eighth of the work of the level before.

    Args:
        loss: takes logits (B, C, D, H, W) and a label (B, 1, D, H, W).

    Source: nnU-Net, Isensee et al., https://arxiv.org/abs/1809.10486.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Compute the weighted loss over all heads.

        Args:
            logits: (B, heads, C, D, H, W), all at full size and the output first, as MONAI's ``DynUNet`` stacks them in
                training; or (B, C, D, H, W) of a network without such heads.
            label: (B, 1, D, H, W) with class numbers.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if logits.ndim == label.ndim:
            return self.loss(logits, label)
        if logits.ndim != label.ndim + 1 or logits.shape[3:] != label.shape[2:]:
            raise ValueError(
                f"logits must be (B, heads, C, D, H, W) for a label (B, 1, D, H, W), got {tuple(logits.shape)} "
                f"and {tuple(label.shape)}"
            )
        losses, weights = [], []
        for level, head in enumerate(logits.unbind(1)):
            step = 2**level
            along = slice(step // 2, None, step)
            seen = (..., along, along, along)
            losses.append(self.loss(head[seen], label[seen]))
            weights.append(1 / step)
        return sum(w * one for w, one in zip(weights, losses, strict=True)) / sum(weights)


class RegionLoss(nn.Module):
    """Add ``weight`` times (Dice + binary cross entropy) / 2 on unions of classes to another loss.

    Class logits z also give the logit of a union U of classes: log Σ exp z(U) − log Σ exp z(rest). Its sigmoid is the
    sum of U's softmax probabilities. So one head serves both, and inference does not change. The regions' Dice and
    cross entropy are means over regions and batch.

    Args:
        loss: loss of the classes; takes logits (B, C, D, H, W) and a label (B, 1, D, H, W).
        regions: the classes of each region, such as ``[[1, 2], [2]]`` for kidney ∪ tumour and tumour.
        weight: weight of the region loss; with 0 it is not computed.
        batch: compute Dice over all voxels of a batch, not per patch.

    Raises:
        ValueError: if a region lacks classes, or the weight is negative.
    """

    def __init__(
        self, loss: nn.Module, regions: Sequence[Sequence[int]], weight: float = 1.0, batch: bool = False
    ) -> None:
        super().__init__()
        if not regions or not all(regions) or min(min(region) for region in regions) < 0:
            raise ValueError(f"regions must be lists of classes, got {regions}")
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.loss, self.weight = loss, float(weight)
        self.regions = tuple(tuple(sorted(set(region))) for region in regions)
        self.dice = DiceLoss(sigmoid=True, smooth_nr=1e-6, smooth_dr=1e-6, batch=batch)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Compute the loss of ``logits`` (B, C, D, H, W) and a ``label`` (B, 1, D, H, W) with class numbers.

        Raises:
            ValueError: if a region contains an unknown class or all classes.
        """
        total: torch.Tensor = self.loss(logits, label)
        if self.weight == 0:
            return total
        inside = torch.cat([_among(label, region) for region in self.regions], dim=1).to(logits.dtype)
        regions = region_logits(logits, self.regions)
        return total + self.weight * (self.dice(regions, inside) + self.cross_entropy(regions, inside)) / 2


def region_logits(logits: torch.Tensor, regions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Compute logits (B, regions, D, H, W) of unions of classes from class logits (B, C, D, H, W).

    Raises:
        ValueError: if a region contains an unknown class, or all classes, so that no other class remains.
    """
    classes = range(logits.shape[1])
    parts = []
    for region in regions:
        rest = [number for number in classes if number not in region]
        if not rest or not set(region) <= set(classes):
            raise ValueError(
                f"a region must contain some of the {len(classes)} classes but not all, got {list(region)}"
            )
        parts.append(_together(logits, region) - _together(logits, rest))
    return torch.cat(parts, dim=1)


def _together(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Compute log Σ exp over some classes, (B, 1, D, H, W)."""
    total = logits[:, classes[0] : classes[0] + 1]
    for number in classes[1:]:  # takes less than half the time of torch.logsumexp over a list of channels
        total = torch.logaddexp(total, logits[:, number : number + 1])
    return total


def _among(label: torch.Tensor, region: Sequence[int]) -> torch.Tensor:
    """Return a mask of the voxels whose ``label`` is a class of the region."""
    inside = label == region[0]
    for number in region[1:]:
        inside = inside | (label == number)
    return inside
