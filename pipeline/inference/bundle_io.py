"""Scans in and masks out as MONAI's transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageWriter, MetaTensor
from monai.transforms import Compose, MapTransform, SaveImaged

from kits_unet3d.transforms import Recipe, preparation

from .reading import Grid, ReadOptions
from .reading.voxels import AIR
from .restore import along_the_body
from .results.mask import write_mask
from .scan import Scan, read_scan


class ReadScand(MapTransform):
    """Replaces scans by float32 MetaTensors (1, D, H, W) in HU whose axes run to inferior, posterior, left.

    A value may be a Scan that is read already, what :func:`find_scans` found, or a path. The meta data hold
    the scan's grid as text, from which a mask can be written without reading the scan again.

    Args:
        keys: of the scans.
        options: for reading.
        allow_missing_keys: pass over keys that the dictionary lacks.
    """

    def __init__(
        self, keys: KeysCollection, options: ReadOptions | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key] if isinstance(d[key], Scan) else read_scan(d[key], self.options)
            image, affine = _oriented(scan)
            meta = {"grid": scan.grid.to_text(), "filename_or_obj": str(scan.path)}
            d[key] = MetaTensor(image[None], affine=torch.from_numpy(affine), meta=meta)
        return d


def _oriented(scan: Scan) -> tuple[torch.Tensor, np.ndarray]:
    if scan.grid.oblique:
        return along_the_body(scan.voxels, scan.grid, AIR)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(scan.affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
    )
    # Turned as a view, so that one copy is made where MONAI's Orientation and LoadImage would make three.
    turned = nib.orientations.apply_orientation(scan.voxels, turn)
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.voxels.shape)
    return torch.from_numpy(np.array(turned, dtype=np.float32, order="C")), affine


class MaskWriter(ImageWriter):
    """Writes a mask on exactly the grid of the scan it was made from, in that scan's format.

    MONAI names the file; this writer keeps its folder, and takes name and ending from the scan.
    """

    def __init__(self, output_dtype: Any = np.uint8, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.grid: Grid | None = None

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        array = data_array.numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        self.data_obj = array[0] if array.ndim == 4 else array

    def set_metadata(self, meta_dict: Any = None, **kwargs: Any) -> None:
        self.grid = Grid.from_text((meta_dict or {})["grid"])

    def write(self, filename: Any, verbose: bool = True, **kwargs: Any) -> None:
        if self.grid is None:
            raise ValueError("set_metadata must come before write")
        write_mask(np.asarray(self.data_obj, dtype=np.uint8), self.grid, Path(filename).parent)


def scan_preparation(recipe: Recipe, key: str = "image", options: ReadOptions | None = None) -> Compose:
    """From a scan to what the network sees, as a MetaTensor (1, D, H, W) that remembers both grids."""
    return Compose([ReadScand(key, options), preparation(recipe, key)])


def mask_saver(output_dir: str, keys: KeysCollection = "pred") -> SaveImaged:
    """Saves masks as ``<name>_seg`` in ``output_dir``, on the scan's grid and in its format."""
    return SaveImaged(
        keys,
        output_dir=output_dir,
        output_postfix="seg",
        separate_folder=False,
        resample=False,
        writer=MaskWriter,
        print_log=False,
    )
