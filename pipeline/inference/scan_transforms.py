"""Bring scans onto the grid of the network, and labels and logits back onto the grid of the scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform
from monai.utils import MetaKeys, SpaceKeys
from torch.nn import functional

from kits_unet3d.transforms import PreprocessingParameters, preprocessing

from ..io import Grid, ReadOptions
from ..io.scan import Scan, read_scan
from ..io.scan_files import scan_name
from ..io.voxels import AIR, DENSEST

#: Voxels of the target grid that are held at a time, with the values of all channels.
SLAB_VOXELS = 1 << 21


class _Line(NamedTuple):
    """Hold the linear interpolation along one axis: two source samples for each target, and the second's share."""

    first: torch.Tensor
    second: torch.Tensor
    share: torch.Tensor

    @classmethod
    def make(cls, count: int, scale: float, offset: float, size: int) -> _Line:
        """Place sample k of ``count`` at ``k · scale + offset`` among ``size`` source samples, or at their edge."""
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


def slabs_on_grid(
    values: torch.Tensor, affine: np.ndarray, shape: Sequence[int], target: np.ndarray, slab: int | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Resample values to another grid, a few slices along its first axis at a time; linear inside, edge values outside.

    Args:
        values: float (C, d, h, w) on the CPU.
        affine: 4×4 of their grid.
        shape: (X, Y, Z) of the target grid.
        target: 4×4 of the target grid. If its axes run along those of the first grid, in any order and direction,
            the axes are interpolated one by one, otherwise all at once.
        slab: slices at a time; if not given, as many as make up a few million voxels.

    Yields:
        The number of the first slice, and (C, n, Y, Z).
    """
    slab = slab or max(1, SLAB_VOXELS // int(np.prod(shape[1:])))
    matrix = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ np.asarray(target, dtype=np.float64)
    turn = matrix[:3, :3]
    axes = np.argmax(np.abs(turn), axis=1)  # the target grid's axis for each axis of the values
    off_axis = turn.copy()
    off_axis[range(3), axes] = 0
    parallel = sorted(axes) == [0, 1, 2] and (np.abs(off_axis) @ np.asarray(shape)).max() <= 0.5
    if not parallel:
        for start in range(0, shape[0], slab):
            yield start, _sampled(values, matrix, (start, min(start + slab, shape[0])), shape)
        return
    lines = [
        _Line.make(int(shape[axes[i]]), float(turn[i, axes[i]]), float(matrix[i, 3]), int(values.shape[i + 1]))
        for i in range(3)
    ]
    order = [int(axis) for axis in np.argsort(axes)]  # the values' axis for each axis of the target grid
    for start in range(0, shape[0], slab):
        part = lines[order[0]].part(start, start + slab).along(values, order[0] + 1)
        for axis in order[1:]:
            part = lines[axis].along(part, axis + 1)
        yield start, part.permute(0, *(axis + 1 for axis in order))


def _sampled(
    values: torch.Tensor, matrix: np.ndarray, part: tuple[int, int], shape: Sequence[int], outside: str = "border"
) -> torch.Tensor:
    """Sample ``values`` at slices ``part`` of a grid of ``shape``; ``matrix`` maps its indices to theirs."""
    sizes = np.maximum(np.array(values.shape[1:]) - 1, 1)
    scaled = torch.from_numpy((matrix[:3] * (2 / sizes)[:, None]).astype(np.float32))  # to -1 … 1, for grid_sample
    i, j, k = (torch.arange(*r, dtype=torch.float32) for r in (part, (0, shape[1]), (0, shape[2])))
    places = torch.stack(
        [
            (i * row[0])[:, None, None] + (j * row[1])[:, None] + (k * row[2] + row[3] - 1)
            for row in scaled.flip(0)  # last axis first
        ],
        dim=-1,
    )
    return functional.grid_sample(values[None], places[None], padding_mode=outside, align_corners=True)[0]


def labels_on_grid(
    logits: torch.Tensor,
    affine: np.ndarray,
    shape: Sequence[int],
    target: np.ndarray,
    slab: int | None = None,
    also: Callable[[torch.Tensor], None] | None = None,
) -> np.ndarray:
    """Return the class of the largest logit at each voxel of another grid.

    Args:
        logits, affine, shape, target, slab: see :func:`slabs_on_grid`.
        also: receives each slab of logits (C, n, Y, Z), in order.

    Returns:
        uint8 array of ``shape``.
    """
    labels = np.empty(tuple(shape), dtype=np.uint8)
    for start, values in slabs_on_grid(logits, affine, shape, target, slab):
        labels[start : start + values.shape[1]] = values.argmax(dim=0).to(torch.uint8).numpy()
        if also is not None:
            also(values)
    return labels


def along_the_body(voxels: np.ndarray, grid: Grid, outside: float) -> tuple[torch.Tensor, np.ndarray]:
    """Resample an oblique or sheared scan to a grid whose axes run to inferior, posterior, left.

    Args:
        voxels: (X, Y, Z).
        grid: of the scan.
        outside: value outside the scan.

    Returns:
        float32 (D, H, W) with the scan's voxel size, over all of the scan, and its affine.
    """
    ornt = nib.orientations.io_orientation(grid.affine)
    spacing = np.empty(3)
    spacing[ornt[:, 0].astype(int)] = grid.spacing_mm
    ends = np.array(list(itertools.product(*((0, n - 1) for n in grid.shape))))
    corners = ends @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    affine = np.zeros((4, 4))
    for axis, world in enumerate((2, 1, 0)):
        affine[world, axis] = -spacing[world]
    affine[:3, 3], affine[3, 3] = corners.max(axis=0), 1
    x, y, z = np.ceil(np.ptp(corners, axis=0) / spacing - 1e-3).astype(int) + 1
    shape = (int(z), int(y), int(x))
    # Shifted, since the sampling gives zero outside. Always a copy: the scan's voxels must not change.
    source = torch.from_numpy(np.array(voxels, dtype=np.float32, order="C"))[None].sub_(outside)
    matrix = np.linalg.inv(grid.affine) @ affine
    result = torch.empty(shape)
    slab = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], slab):
        part = (start, min(start + slab, shape[0]))
        result[part[0] : part[1]] = _sampled(source, matrix, part, shape, "zeros")[0].add_(outside)
    return result, affine


class LoadImageScand(LoadImaged):
    """Replace scans by MetaTensors (X, Y, Z) in HU, as they are stored, after all the checks of :func:`read_scan`.

    A value may be a Scan, a result of :func:`find_scans`, or a path. The meta data hold the scan's grid as text, so
    that a mask can be written without reading the scan again.

    It is a subclass of MONAI's LoadImaged, and named so, for programs that look for the reader of a bundle. They
    leave it out if they bring images themselves.

    Args:
        keys: of the scans.
        options: for reading.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(
        self, keys: KeysCollection, options: ReadOptions | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key] if isinstance(d[key], Scan) else read_scan(d[key], self.options)
            # torch takes a view with any order of axes, but none with flipped axes
            voxels = scan.voxels if min(scan.voxels.strides) >= 0 else scan.voxels.copy()
            affine = torch.from_numpy(scan.affine)
            meta = {"grid": scan.grid.to_text(), "filename_or_obj": str(scan.path), MetaKeys.SPACE: SpaceKeys.RAS}
            meta |= {MetaKeys.ORIGINAL_AFFINE: affine.clone(), MetaKeys.SPATIAL_SHAPE: np.array(voxels.shape)}
            d[key] = MetaTensor(torch.from_numpy(voxels), affine=affine, meta=meta)
        return d


class OrientScand(MapTransform):
    """Replace scans by float32 MetaTensors (1, D, H, W) in HU whose axes run to inferior, posterior, left.

    Takes (X, Y, Z) or (1, X, Y, Z) from :class:`LoadImageScand` or another source of MetaTensors in HU. For other
    sources the grid is made from shape and affine.

    Args:
        keys: of the scans.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            if not isinstance(image, MetaTensor) or image.ndim - (image.ndim == 4 and len(image) == 1) != 3:
                raise ValueError(f"{key} must be a MetaTensor (X, Y, Z) or (1, X, Y, Z)")
            voxels = image.as_tensor().cpu().numpy()
            voxels = voxels[0] if voxels.ndim == 4 else voxels
            grid = Grid.from_text(image.meta["grid"]) if "grid" in image.meta else _grid_of(image, voxels.shape)
            if "grid" not in image.meta:  # other readers may keep padding, which must not be resampled
                voxels = voxels.clip(AIR, DENSEST)
            rotated, affine = _oriented(voxels, grid)
            meta = {name: value for name, value in image.meta.items() if name != MetaKeys.AFFINE}
            meta |= {"grid": grid.to_text(), MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
            d[key] = MetaTensor(rotated[None], affine=torch.from_numpy(affine), meta=meta)
        return d


def _grid_of(image: MetaTensor, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an image from another reader."""
    affine = np.array(image.affine.cpu().numpy(), dtype=np.float64)
    if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    path = Path(str(image.meta.get("filename_or_obj", "scan")))
    x, y, z = shape
    return Grid(path, scan_name(path), (x, y, z), affine)


def _oriented(voxels: np.ndarray, grid: Grid) -> tuple[torch.Tensor, np.ndarray]:
    if grid.oblique:
        return along_the_body(voxels, grid, AIR)
    # Oriented as a view, for one copy; MONAI's Orientation and LoadImage would make three.
    rotated, affine = grid.facing(voxels)
    return torch.from_numpy(np.array(rotated, dtype=np.float32, order="C")), affine


def scan_preprocessing(
    parameters: PreprocessingParameters, key: str = "image", options: ReadOptions | None = None
) -> Compose:
    """Return the transforms from a scan to the network's input, a MetaTensor (1, D, H, W) that holds both grids."""
    return Compose([LoadImageScand(key, options), OrientScand(key), preprocessing(parameters, key)])


class RestoreToScand(MapTransform):
    """Replace logits on the network's grid by labels (1, X, Y, Z) on the stored grid of the scan.

    Needs MetaTensors whose meta holds ``grid``, as :class:`OrientScand` leaves it. Besides logits and labels it needs
    memory for a few slices.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            logits = d[key]
            if not isinstance(logits, MetaTensor) or "grid" not in logits.meta:
                raise ValueError(f"{key} must be a MetaTensor with the grid it was read with")
            grid = Grid.from_text(logits.meta["grid"])
            labels = labels_on_grid(
                logits.as_tensor().float().cpu(), logits.affine.cpu().numpy(), grid.shape, grid.affine
            )
            restored = MetaTensor(torch.from_numpy(labels)[None], affine=torch.from_numpy(grid.affine))
            restored.meta.update({k: v for k, v in logits.meta.items() if k != "affine"})
            d[key] = restored
        return d
