"""Resample volumes to another voxel size, as the reference does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, LazyTransform, MapTransform, Resize
from monai.transforms.spatial.functional import resize
from monai.utils import TraceKeys, TransformBackends, convert_to_tensor, ensure_tuple_rep
from torch.nn.functional import interpolate


def spacing_of(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return ``spacing_mm`` as three floats.

    Raises:
        ValueError: if it is not 3 positive finite numbers.
    """
    values = tuple(float(v) for v in np.asarray(spacing_mm, dtype=np.float64).ravel())
    if len(values) != 3 or not all(0 < v < float("inf") for v in values):
        raise ValueError(f"spacing_mm must be 3 positive numbers, got {spacing_mm}")
    return values


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, int, int]:
    """Return the shape after resampling: spacing / target × shape, truncated, per axis.

    An axis of several voxels keeps at least two, so that the two grids remain distinguishable along it.

    MLPerf truncates where others round, so a volume may lose up to one voxel of extent per axis.
    The order of operations follows the reference, because it decides about the last voxel.
    """
    zoom = np.array(spacing_of(spacing_mm)) / np.array(spacing_of(target_mm))
    d, h, w = (zoom * np.array(shape)).astype(int)
    least_d, least_h, least_w = (min(int(n), 2) for n in shape)
    return max(int(d), least_d), max(int(h), least_h), max(int(w), least_w)


def corner_scaling(shape: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """Return the 4 × 4 matrix from the indices of a resampled grid to those of the old one.

    The centres of the corner voxels of both grids coincide. An axis of one new voxel lies at the first old one.
    """
    steps = [(old - 1) / (new - 1) if new > 1 else 0.0 for old, new in zip(shape, wanted, strict=True)]
    return np.diag([*steps, 1.0])


def centred_padding(size: int, wanted: int) -> tuple[int, int]:
    """Return the voxels to add before and after an axis of ``size`` to reach ``wanted`` (0, 0 if long enough)."""
    missing = max(wanted - size, 0)
    return missing // 2, missing - missing // 2


def crop_to_stride(size: int, stride: int) -> tuple[int, int]:
    """Return the first index and the end index (exclusive) to keep of an axis.

    Let r = size mod stride. If r is less than half a stride, r voxels are removed, r // 2 of them in front.
    Otherwise the axis stays whole and is padded later.
    """
    rest = size % stride
    if rest >= stride // 2:
        return 0, size
    return rest // 2, size - (rest - rest // 2)


def padding_to_stride(size: int, stride: int, roi: int) -> tuple[int, int]:
    """Return the voxels to add before and after an axis to reach the next multiple of ``stride``, at least ``roi``."""
    return centred_padding(size, max(-(-size // stride) * stride, roi))


#: Planes resampled at once, and rows of a block. Blocks of rows of a large scan are freed one by one.
PLANES, ROWS = 16, 64


class ResampleToSpacing(InvertibleTransform, LazyTransform):
    """Resample a channel-first 3-D image (C, D, H, W) to ``spacing_mm``, invertibly and optionally lazily.

    The new shape is ``trunc(spacing / spacing_mm × shape)``. The corners of the two grids coincide
    (``align_corners=True``), so the resulting voxel size differs slightly from ``spacing_mm``. The affine of
    a MetaTensor is updated to the actual grid. An image already at exactly ``spacing_mm`` keeps its values.
    The result is float32. The inverse brings any array on the new grid (logits, a mask) back to the old grid.

    Args:
        spacing_mm: target voxel size along D, H, W.
        mode: ``"trilinear"`` for images, ``"nearest"`` for labels.
        lazy: record the operation instead of executing it. MONAI's grid sampling executes it later, and its
            arithmetic differs from the reference's.

    Source: MLPerf training's image segmentation benchmark, preprocessing.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, spacing_mm: Sequence[float], mode: str = "trilinear", lazy: bool = False) -> None:
        LazyTransform.__init__(self, lazy=lazy)
        if mode not in ("trilinear", "nearest"):
            raise ValueError(f"mode must be 'trilinear' or 'nearest', got {mode!r}")
        self.spacing_mm = spacing_of(spacing_mm)
        self.mode = mode

    @property
    def _align_corners(self) -> bool | None:
        return True if self.mode == "trilinear" else None

    def __call__(
        self, img: NdarrayOrTensor, source_mm: Sequence[float] | None = None, lazy: bool | None = None
    ) -> torch.Tensor:
        """Resample ``img``.

        Args:
            img: (C, D, H, W).
            source_mm: its voxel size; read from the affine of a MetaTensor if not given.
            lazy: overrides the flag of the constructor for this call.

        Raises:
            ValueError: if the image is not (C, D, H, W), or if both an affine and ``source_mm`` are missing.
        """
        if len(img.shape) != 4:
            raise ValueError(f"img must be (C, D, H, W), got shape {tuple(img.shape)}")
        shape = img.peek_pending_shape() if isinstance(img, MetaTensor) else img.shape[1:]
        if source_mm is None:
            if not isinstance(img, MetaTensor):
                raise ValueError("source_mm must be given for an image without an affine")
            source_mm = affine_to_spacing(img.peek_pending_affine())
        source = spacing_of(source_mm)
        wanted = tuple(shape) if source == self.spacing_mm else resampled_shape(shape, source, self.spacing_mm)
        lazy = self.lazy if lazy is None else lazy
        if self.mode == "trilinear" and tuple(wanted) != tuple(shape):
            return self._trilinear(convert_to_tensor(img, track_meta=get_track_meta()), shape, wanted, lazy)
        # Labels are selected, not computed, so uint8 suffices and needs a quarter of the memory.
        bytes_ = self.mode == "nearest" and torch.as_tensor(img[..., :0]).dtype == torch.uint8
        result = resize(
            img,
            tuple(int(n) for n in wanted),
            self.mode,
            self._align_corners,
            torch.uint8 if bytes_ else torch.float32,
            input_ndim=3,
            anti_aliasing=False,
            anti_aliasing_sigma=None,
            lazy=lazy,
            transform_info=self.get_transform_info(),
        )
        # Without a change of shape, MONAI returns the image itself.
        return result if lazy or tuple(wanted) != tuple(shape) else result.clone()  # type: ignore[no-any-return]

    def _trilinear(self, img: torch.Tensor, shape: Sequence[int], wanted: Sequence[int], lazy: bool) -> torch.Tensor:
        """Resample as MONAI's ``resize`` does, including its record in a MetaTensor.

        MONAI before 1.6 records the affine of ``align_corners=False`` for both.
        """
        size = tuple(int(n) for n in wanted)
        extra = {"mode": self.mode, "align_corners": self._align_corners, "dtype": "float32", "new_dim": 0}
        notes = self.track_transform_meta(
            img,
            sp_size=size,
            affine=corner_scaling(shape, size),
            extra_info=extra,
            orig_size=tuple(shape),
            transform_info=self.get_transform_info(),
            lazy=lazy,
        )
        if lazy:
            return img.copy_meta_from(notes) if isinstance(img, MetaTensor) else notes  # type: ignore[no-any-return]
        if not isinstance(img, MetaTensor):
            return trilinear(img, size)
        return MetaTensor(trilinear(img.as_tensor(), size)).copy_meta_from(notes)  # type: ignore[no-any-return]

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Bring ``data`` (C, d, h, w) on the resampled grid back to the earlier grid and its affine."""
        applied = self.pop_transform(data)
        back = Resize(
            spatial_size=applied[TraceKeys.ORIG_SIZE],
            mode=self.mode,
            align_corners=self._align_corners,
        )
        with back.trace_transform(False):
            result = back(data)
        if self._align_corners and isinstance(result, MetaTensor):
            scaling = torch.as_tensor(corner_scaling(data.shape[1:], result.shape[1:]))
            result.affine = data.affine @ scaling.to(data.affine)  # type: ignore[attr-defined]
        return result  # type: ignore[no-any-return]


class ResampleToSpacingd(MapTransform, InvertibleTransform, LazyTransform):
    """Apply :class:`ResampleToSpacing` to a dictionary.

    Args:
        keys: images and labels of a case; all lie on one grid.
        spacing_mm: target voxel size along D, H, W.
        mode: ``"trilinear"`` or ``"nearest"``, one for all keys or one for each key.
        source_key: key of the source voxel size, to use it instead of the affine.
        lazy: record the operation instead of executing it.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    backend = ResampleToSpacing.backend

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        mode: str | Sequence[str] = "trilinear",
        source_key: str | None = None,
        lazy: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        LazyTransform.__init__(self, lazy=lazy)
        self.source_key = source_key
        self.resamplers = [ResampleToSpacing(spacing_mm, m, lazy) for m in ensure_tuple_rep(mode, len(self.keys))]

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        d = dict(data)
        source = d[self.source_key] if self.source_key is not None else None
        lazy = self.lazy if lazy is None else lazy
        for key, resampler in self.key_iterator(d, self.resamplers):
            d[key] = resampler(d[key], source, lazy=lazy)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, resampler in self.key_iterator(d, self.resamplers):
            d[key] = resampler.inverse(d[key])
        return d


def trilinear(img: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Interpolate trilinearly without a float32 copy of the whole volume.

    The result is that of ``interpolate(img.float(), shape, mode="trilinear", align_corners=True)``, bit for bit.

    Args:
        img: (C, D, H, W), of any type.
        shape: target (D, H, W).

    The weights are nested, first along W, then H, then D. So the planes can be resampled before the axis D.
    Each plane is passed as a volume of depth 1, because ``bilinear`` rounds at other places.
    """
    depth, height, width = (int(n) for n in shape)
    rows = [range(first, min(first + ROWS, height)) for first in range(0, height, ROWS)]
    blocks = [torch.empty((*img.shape[:2], len(block), width), device=img.device) for block in rows]
    for first in range(0, img.shape[1], PLANES):
        for channel, volume in enumerate(img[:, first : first + PLANES]):
            flat = interpolate(volume.float()[None, :, None], (1, height, width), mode="trilinear", align_corners=True)
            for block, values in zip(blocks, flat[0, :, 0].split(ROWS, dim=1), strict=True):
                block[channel, first : first + PLANES] = values
    result = torch.empty((img.shape[0], depth, height, width), device=img.device)
    for part in rows:
        across = interpolate(blocks.pop(0)[None], (depth, len(part), width), mode="trilinear", align_corners=True)
        result[:, :, part.start : part.stop] = across[0]
    return result
