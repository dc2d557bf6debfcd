"""Spread sliding windows evenly, without near-duplicates of their neighbours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .reference import ReferenceWindows

#: Share of a stride by which the distance of windows may grow if that saves one.
SLACK = 0.25


class EvenWindows(ReferenceWindows):
    """Cover each axis with as few windows as have about the requested overlap; see :class:`ReferenceWindows`.

    The reference pads to a multiple of the stride, so that the last window may hold little but padding. Here the
    distance between windows grows by up to a quarter if that saves one, or shrinks so that they end with the volume.
    A volume of up to one window has one.
    """

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return super(EvenWindows, self.spaced(inputs.shape[2:])).__call__(inputs, network, *args, **kwargs)

    def spaced(self, shape: Sequence[int]) -> EvenWindows:
        """Return a copy with the overlap that fits a volume of ``shape`` (D, H, W)."""
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
    """Return the distance of windows of ``roi`` voxels that cover ``size`` voxels, near ``stride``, at most ``roi``."""
    left = size - roi
    if left <= 0:
        return stride
    steps = max(math.ceil(left / stride - SLACK), 1)
    return min(math.ceil(left / steps), roi)
