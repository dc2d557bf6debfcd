"""Scans in and masks out for MONAI's ``LoadImaged`` and ``SaveImaged``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, ImageWriter
from monai.transforms import Compose, LoadImaged, Orientationd, SaveImaged

from kits_unet3d.transforms import Recipe, preparation

from .scan import Scan, read_scan, write_mask


class ScanReader(ImageReader):
    """Reads what :func:`read_scan` reads, with its checks, into MONAI's ``LoadImage``."""

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        return True  # read_scan itself says what it does not know, and why

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Scan:
        return read_scan(data if isinstance(data, str | Path) else data[0])

    def get_data(self, img: Scan) -> tuple[np.ndarray, dict[str, Any]]:
        meta = {
            "affine": img.affine,
            "original_affine": img.affine,
            "spatial_shape": np.asarray(img.voxels.shape),
            "original_channel_dim": "no_channel",
            "filename_or_obj": str(img.path),
        }
        return img.voxels, meta


class MaskWriter(ImageWriter):
    """Writes a mask on exactly the grid of the scan it was made from, in that scan's format.

    MONAI names the file; this writer keeps its folder, and takes name and ending from the scan.
    """

    def __init__(self, output_dtype: Any = np.uint8, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.source = ""

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        array = data_array.numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        self.data_obj = array[0] if array.ndim == 4 else array

    def set_metadata(self, meta_dict: Any = None, **kwargs: Any) -> None:
        self.source = str((meta_dict or {})["filename_or_obj"])

    def write(self, filename: Any, verbose: bool = True, **kwargs: Any) -> None:
        write_mask(np.asarray(self.data_obj, dtype=np.uint8), read_scan(self.source), Path(filename).parent)


def scan_preparation(recipe: Recipe, key: str = "image") -> Compose:
    """From the path of a scan to what the network sees, as a MetaTensor (1, D, H, W) that remembers both grids."""
    return Compose(
        [
            LoadImaged(key, reader=ScanReader, ensure_channel_first=True),
            Orientationd(key, axcodes="IPL", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            preparation(recipe, key),
        ]
    )


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
