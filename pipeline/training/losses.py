"""Losses around a loss: on coarser outputs of the network too, and on regions made of several classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import nn


class DeepSupervision(nn.Module):
    """A loss on a network's output and on what its coarser levels would say, weighed 1, ½, ¼ … and divided by the sum.

    Head k, of a level 2ᵏ times as coarse, repeats each of its values 2ᵏ times along each axis. One of them, the one
    after the middle, is compared with the label there: the same answer for an eighth of the work a level.

    Args:
        loss: of logits (B, C, D, H, W) and a label (B, 1, D, H, W).

    Source: nnU-Net, Isensee et al., https://arxiv.org/abs/1809.10486.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """
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
    """Another loss, plus ``weight`` times (Dice + binary cross entropy) / 2 on regions that are unions of classes.

    A network that gives class logits z gives a region's too: with z over a union U of classes, log Σ exp z(U) −
    log Σ exp z(rest) is the logit whose sigmoid is the sum of U's softmax probabilities. So one head serves both, and
    inference is what it was. The regions' Dice and cross entropy are means over regions and batch.

    Args:
        loss: of the classes; of logits (B, C, D, H, W) and a label (B, 1, D, H, W).
        regions: each the classes that it is made of, such as ``[[1, 2], [2]]`` for kidney ∪ tumour and tumour.
        weight: of the regions' part; with 0 it is not computed.
        batch: Dice of all of a batch's voxels together, not of each of its patches.

    Raises:
        ValueError: if a region has no class, or the weight is negative.
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
        """The loss of ``logits`` (B, C, D, H, W) and a ``label`` (B, 1, D, H, W) with class numbers.

        Raises:
            ValueError: if a region holds a class that there is not, or all of them.
        """
        total: torch.Tensor = self.loss(logits, label)
        if self.weight == 0:
            return total
        inside = torch.cat([_among(label, region) for region in self.regions], dim=1).to(logits.dtype)
        regions = region_logits(logits, self.regions)
        return total + self.weight * (self.dice(regions, inside) + self.cross_entropy(regions, inside)) / 2


def region_logits(logits: torch.Tensor, regions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (B, regions, D, H, W) of unions of classes out of those of the classes (B, C, D, H, W).

    Raises:
        ValueError: if a region holds a class that there is not, or all of them, which leaves nothing to tell it from.
    """
    classes = range(logits.shape[1])
    parts = []
    for region in regions:
        rest = [number for number in classes if number not in region]
        if not rest or not set(region) <= set(classes):
            raise ValueError(f"a region must be some of the {len(classes)} classes and not all, got {list(region)}")
        parts.append(_together(logits, region) - _together(logits, rest))
    return torch.cat(parts, dim=1)


def _together(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """log Σ exp over some classes, (B, 1, D, H, W)."""
    total = logits[:, classes[0] : classes[0] + 1]
    for number in classes[1:]:  # less than half of the time of torch.logsumexp over a list of channels
        total = torch.logaddexp(total, logits[:, number : number + 1])
    return total


def _among(label: torch.Tensor, region: Sequence[int]) -> torch.Tensor:
    """Where ``label`` is one of the classes of a region."""
    inside = label == region[0]
    for number in region[1:]:
        inside = inside | (label == number)
    return inside
