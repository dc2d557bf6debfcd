"""Sliding windows spread evenly, none of them a near-duplicate of its neighbour."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .reference import ReferenceWindows

#: By this share of a stride two windows may lie further apart, if that saves one.
SLACK = 0.25


class EvenWindows(ReferenceWindows):
    """:class:`ReferenceWindows`, but along each axis as few as cover it with about the wanted overlap.

    The reference pads to a multiple of the stride, so that the last window may see little else than padding.
    Here the distance between windows is stretched by up to a quarter if that saves one, or shortened so that they
    end with the volume; a volume of up to one window has one.
    """

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return super(EvenWindows, self.spaced(inputs.shape[2:])).__call__(inputs, network, *args, **kwargs)

    def spaced(self, shape: Sequence[int]) -> EvenWindows:
        """The same with the overlap that a volume of ``shape`` (D, H, W) wants."""
        spaced = copy.copy(self)
        # Half a voxel more, since MONAI truncates window × (1 - overlap).
        spaced.overlap = [  # type: ignore[assignment]
            1 - (min(even_stride(int(n), stride, roi), roi - 0.5) + 0.5) / roi
            for n, stride, roi in zip(shape, self.stride, self.roi_size, strict=True)  # type: ignore[arg-type]
        ]
        return spaced

    def total_weights(self, shape: Sequence[int]) -> torch.Tensor:
        return super(EvenWindows, self.spaced(shape)).total_weights(shape)

    def padding(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        pads = []
        for n, stride, roi in zip(shape, self.stride, self.roi_size, strict=True):  # type: ignore[arg-type]
            covered = roi + math.ceil(max(n - roi, 0) / stride) * stride
            pads.append(((covered - n) // 2, covered - n - (covered - n) // 2))
        return pads


def even_stride(size: int, stride: int, roi: int) -> int:
    """Distance of windows of ``roi`` voxels that cover ``size`` voxels, near ``stride`` and at most ``roi``."""
    left = size - roi
    if left <= 0:
        return stride
    steps = max(math.ceil(left / stride - SLACK), 1)
    return min(math.ceil(left / steps), roi)
