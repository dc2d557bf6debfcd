"""The reference's crop before evaluation: volumes a little longer than a multiple of the stride are cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, SpatialCrop, Transform
from monai.utils import TransformBackends, ensure_tuple_rep

from .geometry import crop_to_stride


class CropToStride(Transform):
    """Cuts a channel-first image (C, D, H, W) along the axes that exceed a multiple of ``stride`` by less
    than half a stride, so that no window is spent on a few voxels; a cut is recorded in a MetaTensor.

    Args:
        stride: step between windows in voxels, one number or three; 64 in the reference.

    Source: MLPerf training's image segmentation benchmark, evaluation. Scores are computed on what is left.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, stride: Sequence[int] | int) -> None:
        self.stride = tuple(int(n) for n in ensure_tuple_rep(stride, 3))
        if min(self.stride) < 1:
            raise ValueError(f"stride must be positive, got {self.stride}")

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        kept = [crop_to_stride(int(n), s) for n, s in zip(img.shape[1:], self.stride, strict=True)]
        crop = SpatialCrop(roi_start=[a for a, _ in kept], roi_end=[b for _, b in kept])
        return crop(img).clone()  # type: ignore[arg-type]  # MONAI gives a view of the input


class CropToStrided(MapTransform):
    """Dictionary form of :class:`CropToStride`.

    Args:
        keys: arrays to cut alike, each (C, D, H, W).
        stride: step between windows in voxels.
        allow_missing_keys: pass over keys that the dictionary lacks.
    """

    backend = CropToStride.backend

    def __init__(self, keys: KeysCollection, stride: Sequence[int] | int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crop = CropToStride(stride)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop(d[key])
        return d
