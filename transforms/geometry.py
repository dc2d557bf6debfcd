"""Shape and window arithmetic on integers: no images here, only sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spacing_of(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """``spacing_mm`` as three floats.

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
    """Shape after resampling: spacing / target × shape, truncated, per axis.

    An axis of several voxels keeps two at least, so that the two grids can be told apart along it.

    MLPerf truncates where others round, so a volume may lose up to a voxel of extent per axis.
    The order of the operations is the reference's; it decides about the last voxel.
    """
    zoom = np.array(spacing_of(spacing_mm)) / np.array(spacing_of(target_mm))
    d, h, w = (zoom * np.array(shape)).astype(int)
    least_d, least_h, least_w = (min(int(n), 2) for n in shape)
    return max(int(d), least_d), max(int(h), least_h), max(int(w), least_w)


def centred_padding(size: int, wanted: int) -> tuple[int, int]:
    """Voxels to add before and after an axis of ``size`` to reach ``wanted`` (0, 0 if it is long enough)."""
    missing = max(wanted - size, 0)
    return missing // 2, missing - missing // 2


def crop_to_stride(size: int, stride: int) -> tuple[int, int]:
    """First and last (exclusive) index to keep of an axis, so that few voxels exceed a multiple of ``stride``.

    With r = size mod stride: r voxels go, r // 2 of them in front, if r is less than half a stride;
    otherwise the axis stays whole and is padded later.
    """
    rest = size % stride
    if rest >= stride // 2:
        return 0, size
    return rest // 2, size - (rest - rest // 2)


def padding_to_stride(size: int, stride: int, roi: int) -> tuple[int, int]:
    """Voxels to add before and after an axis: to the next multiple of ``stride``, and to ``roi`` at least."""
    return centred_padding(size, max(-(-size // stride) * stride, roi))
