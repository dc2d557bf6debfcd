"""Compute shapes, crops and padding from sizes alone, without images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
