"""The reference's crop before evaluation: volumes a little longer than a multiple of the stride are cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import BorderPad, InvertibleTransform, MapTransform
from monai.transforms.croppad.functional import crop_func
from monai.utils import TraceKeys, TransformBackends, convert_to_tensor, ensure_tuple_rep

from .geometry import crop_to_stride


class CropToStride(InvertibleTransform):
    """Cuts a channel-first image (C, D, H, W) along the axes that exceed a multiple of ``stride`` by less
    than half a stride, so that no window is spent on a few voxels; a cut is recorded in a MetaTensor, and undone
    by the inverse: what was cut comes back as zeros, on the grid before.

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
        image: Any = convert_to_tensor(img, track_meta=get_track_meta())
        # By MONAI's function and not its transform, which would record the cut as its own, for nobody here to undo.
        cut = crop_func(image, (slice(None), *(slice(a, b) for a, b in kept)), False, self.get_transform_info())
        return cut.clone()  # MONAI gives a view of the input

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """``data`` (C, d, h, w) as it was cut, padded to the grid before, with its affine."""
        back = BorderPad(self.pop_transform(data)[TraceKeys.EXTRA_INFO]["cropped"])
        with back.trace_transform(False):
            return back(data)


class CropToStrided(MapTransform, InvertibleTransform):
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

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop.inverse(d[key])
        return d
