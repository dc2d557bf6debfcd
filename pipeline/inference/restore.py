"""Logits on the network's grid to labels on the scan's own grid, slab by slab."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform


class _Line(NamedTuple):
    """Linear interpolation along one axis: for each wanted sample two given ones, and the share of the second."""

    first: torch.Tensor
    second: torch.Tensor
    share: torch.Tensor

    @classmethod
    def make(cls, count: int, scale: float, offset: float, size: int) -> _Line:
        """Sample k of ``count`` lies at ``k · scale + offset`` among ``size`` given ones, or at their edge."""
        position = np.clip(np.arange(count) * scale + offset, 0, size - 1)
        first = np.minimum(position.astype(np.int64), max(size - 2, 0))
        return cls(
            torch.from_numpy(first),
            torch.from_numpy(np.minimum(first + 1, size - 1)),
            torch.from_numpy((position - first).astype(np.float32)),
        )

    def part(self, start: int, stop: int) -> _Line:
        return _Line(*(values[start:stop] for values in self))

    def along(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        shape = [1] * values.ndim
        shape[axis] = -1
        a, b = values.index_select(axis, self.first), values.index_select(axis, self.second)
        return torch.lerp(a, b, self.share.view(shape))


def labels_on_grid(
    logits: torch.Tensor, affine: np.ndarray, shape: Sequence[int], target: np.ndarray, slab: int = 8
) -> np.ndarray:
    """Class of the largest logit at each voxel of another grid; linear between logits, edge values beyond.

    Args:
        logits: (C, d, h, w) on the CPU.
        affine: 4×4 of their grid.
        shape: of the wanted grid, three axes.
        target: 4×4 of the wanted grid. Its axes run along those of the first grid, in any order and
            direction.
        slab: slices of the wanted grid that are held as logits at a time.

    Returns:
        uint8 array of ``shape``.

    Raises:
        ValueError: if the axes of the two grids are not parallel.
    """
    matrix = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ np.asarray(target, dtype=np.float64)
    turn = matrix[:3, :3]
    axes = np.argmax(np.abs(turn), axis=1)  # the wanted grid's axis for each axis of the logits
    off_axis = turn.copy()
    off_axis[range(3), axes] = 0
    extent = np.abs(off_axis) @ np.asarray(shape)
    if sorted(axes) != [0, 1, 2] or extent.max() > 0.5:
        raise ValueError("the axes of the two grids must be parallel")
    lines = [
        _Line.make(int(shape[axes[i]]), float(turn[i, axes[i]]), float(matrix[i, 3]), int(logits.shape[i + 1]))
        for i in range(3)
    ]
    sizes = [int(shape[axis]) for axis in axes]
    labels = np.empty(sizes, dtype=np.uint8)
    for start in range(0, sizes[0], slab):
        values = lines[0].part(start, start + slab).along(logits, 1)
        values = lines[2].along(lines[1].along(values, 2), 3)
        labels[start : start + slab] = values.argmax(dim=0).to(torch.uint8).numpy()
    return np.ascontiguousarray(labels.transpose(np.argsort(axes)))


class RestoreToScand(MapTransform):
    """Replaces logits on the network's grid by labels (1, X, Y, Z) on the grid the scan was stored on.

    Needs MetaTensors whose meta holds ``original_affine`` and ``spatial_shape``, as MONAI's readers
    leave them. The memory needed beyond logits and labels is that of a few slices.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            logits = d[key]
            if not isinstance(logits, MetaTensor) or "original_affine" not in logits.meta:
                raise ValueError(f"{key} must be a MetaTensor that remembers the affine it was read with")
            target = np.asarray(logits.meta["original_affine"], dtype=np.float64)
            shape = [int(n) for n in np.asarray(logits.meta["spatial_shape"]).ravel()[:3]]
            labels = labels_on_grid(logits.as_tensor().float().cpu(), logits.affine.cpu().numpy(), shape, target)
            restored = MetaTensor(torch.from_numpy(labels)[None], affine=torch.from_numpy(target))
            restored.meta.update({k: v for k, v in logits.meta.items() if k != "affine"})
            d[key] = restored
        return d
