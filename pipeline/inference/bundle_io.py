"""Read scans and write masks with MONAI transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageWriter, MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform, SaveImaged
from monai.utils import MetaKeys, SpaceKeys

from kits_unet3d.transforms import PreprocessingParameters, preprocessing

from ..io import Grid, ReadOptions
from ..io.mask import write_mask
from ..io.scan import Scan, read_scan
from ..io.scan_lists import scan_name
from ..io.voxels import AIR, DENSEST
from ..masks.postprocessing import PostProcessing
from .restore import along_the_body


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


class PostProcessMaskd(MapTransform):
    """Post-process labels (1, X, Y, Z) on the stored grid of the scan, as :class:`RestoreToScand` leaves them.

    The scan is read again, since its HU show where the body is; only if a step is enabled.

    Args:
        keys: of the labels.
        postprocessing: steps.
        options: for reading the scan.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        postprocessing: PostProcessing,
        options: ReadOptions | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.postprocessing, self.options = postprocessing, options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d) if self.postprocessing else ():
            labels = d[key]
            scan = read_scan(Grid.from_text(labels.meta["grid"]).path, self.options)
            mask = self.postprocessing(labels.as_tensor().cpu().numpy()[0], scan)
            d[key] = MetaTensor(torch.from_numpy(mask)[None], affine=labels.affine, meta=labels.meta)
        return d


class MaskWriter(ImageWriter):
    """Write a mask on exactly the grid of its scan, in that scan's format.

    MONAI names the file; this writer keeps its directory, and takes name and extension from the scan.
    """

    def __init__(self, output_dtype: Any = np.uint8, classes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.classes = tuple(classes)
        self.grid: Grid | None = None

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        array = data_array.numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        self.data_obj = array[0] if array.ndim == 4 else array

    def set_metadata(self, meta_dict: Any = None, **kwargs: Any) -> None:
        self.grid = Grid.from_text((meta_dict or {})["grid"])

    def write(self, filename: Any, verbose: bool = True, **kwargs: Any) -> None:
        if self.grid is None:
            raise ValueError("set_metadata must come before write")
        write_mask(np.asarray(self.data_obj, dtype=np.uint8), self.grid, Path(filename).parent, self.classes)


def scan_preprocessing(
    parameters: PreprocessingParameters, key: str = "image", options: ReadOptions | None = None
) -> Compose:
    """Return the transforms from a scan to the network's input, a MetaTensor (1, D, H, W) that holds both grids."""
    return Compose([LoadImageScand(key, options), OrientScand(key), preprocessing(parameters, key)])


def mask_saver(output_dir: str, keys: KeysCollection = "pred", classes: Sequence[str] = ()) -> SaveImaged:
    """Return a transform that saves masks as ``<name>_seg`` in ``output_dir``, on the scan's grid and in its format.

    ``classes`` are the names of their values, background first, for the files.
    """
    saver = SaveImaged(
        keys,
        output_dir=output_dir,
        output_postfix="seg",
        separate_folder=False,
        resample=False,
        writer=MaskWriter,
        print_log=False,
    )
    saver.set_options(init_kwargs={"classes": tuple(classes)})
    return saver
