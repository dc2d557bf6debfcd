"""Run a network on sliding windows as the reference does, or on fewer of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch.nn import functional

from kits_unet3d.transforms.resample import padding_to_stride

#: (first, last + 1) along D, H, W.
Box = tuple[tuple[int, int], ...]


def like(inputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return ``values``, with affine and history of ``inputs`` if that is a MetaTensor."""
    if isinstance(inputs, MetaTensor):
        return MetaTensor(values, meta=inputs.meta, applied_operations=inputs.applied_operations)
    return values


def reference_weights(roi_size: Sequence[int], sigma_scale: float = 0.125) -> torch.Tensor:
    """Return the weight of each voxel of a window, (D, H, W), largest 1.

    It is the cube root of the product of three Gaussians with σ = ``sigma_scale`` × window. The root makes the
    effective σ larger by √3. MONAI's own map has neither the root nor values below 1e-3.
    """
    axes = [axis_weights(n, sigma_scale) for n in roi_size]
    product = np.cbrt(axes[0][:, None, None] * axes[1][:, None] * axes[2])
    return torch.from_numpy((product / product.max()).astype(np.float32))


def axis_weights(size: int, sigma_scale: float = 0.125) -> np.ndarray:
    """Return the Gaussian of the distance to the middle of an axis of ``size`` voxels."""
    distance = np.arange(size) - (size - 1) / 2
    return np.exp(-0.5 * (distance / (sigma_scale * size)) ** 2)  # type: ignore[no-any-return]


class ReferenceWindows(SlidingWindowInferer):
    """Run a network on sliding windows as in MLPerf's evaluation.

    Each axis is padded to a multiple of the stride (half in front) and at least to the window. Windows are weighted by
    :func:`reference_weights`. The padding is cut off.

    Args:
        roi_size: window in voxels along D, H, W.
        overlap: of neighbouring windows, as a fraction; 0.5 in the reference.
        padding_value: normalised intensity of the padding.
        sw_batch_size: number of windows in one forward pass.
        stitch_device: sums the logits; the input's device if not given.
        progress: show a bar over the windows.

    The input is (1, C, D, H, W). The result has the classes as channels and the input's size and affine.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: float = 0.5,
        padding_value: float = -2.2,
        sw_batch_size: int = 1,
        stitch_device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        roi = tuple(int(n) for n in ensure_tuple_rep(roi_size, 3))
        super().__init__(roi, sw_batch_size, overlap, device=stitch_device, progress=progress)
        self.padding_value = padding_value
        self.roi_weight_map = reference_weights(roi)

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        pads = self.padding(image.shape[2:])
        last_axis_first = [amount for pad in reversed(pads) for amount in pad]
        padded = functional.pad(image, last_axis_first, value=self.padding_value)
        logits = super().__call__(padded, network, *args, **kwargs)
        inside = [slice(a, a + int(n)) for (a, _), n in zip(pads, image.shape[2:], strict=True)]
        unpadded = (slice(None), slice(None), *inside)
        logits = logits[unpadded]  # type: ignore[index, call-overload]
        return like(inputs, logits)  # type: ignore[arg-type]

    @property
    def stride(self) -> tuple[int, ...]:
        """Return the step between windows in voxels, along D, H, W."""
        overlaps = ensure_tuple_rep(self.overlap, 3)
        return tuple(max(int(n * (1 - o)), 1) for n, o in zip(self.roi_size, overlaps, strict=True))  # type: ignore[arg-type]

    def padding(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Return the voxels added before and after each axis of a volume of ``shape`` (D, H, W)."""
        axes = zip(shape, self.stride, self.roi_size, strict=True)  # type: ignore[arg-type]
        return [padding_to_stride(int(n), stride, roi) for n, stride, roi in axes]

    def total_weights(self, shape: Sequence[int]) -> torch.Tensor:
        """Sum the weights of all windows in each voxel of a volume of ``shape`` (D, H, W)."""
        sums = []
        axes = zip(shape, self.padding(shape), self.stride, self.roi_size, strict=True)  # type: ignore[arg-type]
        for n, (front, behind), stride, roi in axes:
            weights, total = np.cbrt(axis_weights(roi)), np.zeros(front + n + behind)
            for start in range(0, len(total) - roi + 1, stride):
                total[start : start + roi] += weights / weights.max()
            sums.append(torch.from_numpy(total[front : front + n]).float())
        return sums[0][:, None, None] * sums[1][:, None] * sums[2]


class StockWindows(SlidingWindowInferer):
    """Run a network on MONAI's sliding windows with Gaussian weights.

    Windows start at the volume's first voxel, a stride apart; the last is moved back to end with the volume. They keep
    their positions if only some are used, so a part of a volume is predicted as in the whole.

    Args:
        roi_size: window in voxels along D, H, W; no axis of the volume may be shorter.
        overlap: of neighbouring windows, as a fraction.
        stitch_device: sums the logits; the input's device if not given.
        progress: show a bar over the windows.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        stitch_device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(tuple(roi_size), 1, overlap, mode="gaussian", device=stitch_device, progress=progress)

    def snapped(self, box: Box, shape: Sequence[int]) -> Box:
        """Extend ``box`` to all windows that cover it or are centred in it, in a volume of ``shape`` (D, H, W).

        A window weights its centre most, so one that is centred outside contributes little inside.
        """
        result = []
        for (a, b), n, roi in zip(box, shape, self.roi_size, strict=True):  # type: ignore[arg-type]
            starts = [*range(0, n - roi, max(int(roi * (1 - self.overlap)), 1)), n - roi]  # type: ignore[operator]
            centred = [start for start in starts if a <= start + roi / 2 <= b]
            first = min([max(start for start in starts if start <= max(a, 0)), *centred])
            last = max([min(start for start in starts if start + roi >= b), first, *centred])
            result.append((first, last + roi))
        return tuple(result)


#: Largest growth of the distance between windows that may save a window, as a share of the stride.
SLACK = 0.25


class EvenWindows(ReferenceWindows):
    """Cover each axis with as few windows as possible at about the given overlap; see :class:`ReferenceWindows`.

    The reference pads to a multiple of the stride, so that the last window may hold little but padding. Here the
    distance between windows grows by up to a quarter if that saves one, or shrinks so that they end with the volume.
    An axis that is not longer than a window has one window.
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
