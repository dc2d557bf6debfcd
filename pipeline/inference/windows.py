"""The reference's sliding windows, from MONAI's inferer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch.nn import functional

from kits_unet3d.transforms.geometry import padding_to_stride


def reference_weights(roi_size: Sequence[int], sigma_scale: float = 0.125) -> torch.Tensor:
    """Weight of each voxel of a window, (D, H, W), largest 1.

    The cube root of the product of three Gaussians with σ = ``sigma_scale`` × window, which makes σ larger
    by √3 than it looks. MONAI's own map has neither the root nor values below 1e-3.
    """
    axes = []
    for n in roi_size:
        distance = np.arange(n) - (n - 1) / 2
        axes.append(np.exp(-0.5 * (distance / (sigma_scale * n)) ** 2))
    product = np.cbrt(axes[0][:, None, None] * axes[1][:, None] * axes[2])
    return torch.from_numpy((product / product.max()).astype(np.float32))


class ReferenceWindows(SlidingWindowInferer):
    """Sliding windows as in MLPerf's evaluation: each axis is padded to a multiple of the stride (half in
    front) and to the window at least, windows are weighed by :func:`reference_weights`, the padding is cut off.

    Args:
        roi_size: window in voxels along D, H, W.
        overlap: of neighbouring windows, as a fraction; 0.5 in the reference.
        padding_value: normalised intensity of what is added.
        sw_batch_size: windows the network sees at once.
        stitch_device: where the logits are added up; the input's device if not given.
        progress: show a bar over the windows.

    The input is (1, C, D, H, W); the result has the classes as channels and the input's size and affine.
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
        pads = [
            padding_to_stride(int(n), max(int(roi * (1 - self.overlap)), 1), roi)  # type: ignore[operator]
            for n, roi in zip(image.shape[2:], self.roi_size, strict=True)  # type: ignore[arg-type]
        ]
        last_axis_first = [amount for pad in reversed(pads) for amount in pad]
        padded = functional.pad(image, last_axis_first, value=self.padding_value)
        logits = super().__call__(padded, network, *args, **kwargs)
        inside = [slice(a, a + int(n)) for (a, _), n in zip(pads, image.shape[2:], strict=True)]
        unpadded = (slice(None), slice(None), *inside)
        logits = logits[unpadded]  # type: ignore[index, call-overload]
        if isinstance(inputs, MetaTensor):
            return MetaTensor(logits, meta=inputs.meta, applied_operations=inputs.applied_operations)
        return logits  # type: ignore[return-value]
