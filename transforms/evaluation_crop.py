"""Crop volumes that slightly exceed a multiple of the stride before evaluation, as the reference does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import BorderPad, InvertibleTransform, MapTransform
from monai.transforms.croppad.functional import crop_func
from monai.utils import TraceKeys, TransformBackends, convert_to_tensor, ensure_tuple_rep

from .resample import crop_to_stride


class CropToStride(InvertibleTransform):
    """Crop axes of an image (C, D, H, W) that exceed a multiple of ``stride`` by less than half a stride.

    So no sliding window is spent on a few voxels. A MetaTensor records the crop. The inverse restores the
    earlier grid and fills the removed voxels with zeros.

    Args:
        stride: step between sliding windows in voxels, one number or three; 64 in the reference.

    Source: MLPerf training's image segmentation benchmark, evaluation. Scores are computed on the cropped volume.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, stride: Sequence[int] | int) -> None:
        self.stride = tuple(int(n) for n in ensure_tuple_rep(stride, 3))
        if min(self.stride) < 1:
            raise ValueError(f"stride must be positive, got {self.stride}")

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        kept = [crop_to_stride(int(n), s) for n, s in zip(img.shape[1:], self.stride, strict=True)]
        image: Any = convert_to_tensor(img, track_meta=get_track_meta())
        # MONAI's transform would record the crop as its own, so the inverse could not undo it; its function does not.
        cut = crop_func(image, (slice(None), *(slice(a, b) for a, b in kept)), False, self.get_transform_info())
        return cut.clone()  # MONAI returns a view of the input

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Pad cropped ``data`` (C, d, h, w) to the earlier grid and restore its affine."""
        back = BorderPad(self.pop_transform(data)[TraceKeys.EXTRA_INFO]["cropped"])
        with back.trace_transform(False):
            return back(data)


class CropToStrided(MapTransform, InvertibleTransform):
    """Apply :class:`CropToStride` to a dictionary.

    Args:
        keys: arrays to crop alike, each (C, D, H, W).
        stride: step between sliding windows in voxels.
        allow_missing_keys: skip keys that the dictionary lacks.
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

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop.inverse(d[key])
        return d
