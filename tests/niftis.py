"""NIfTI files made for tests, good ones and such as no library would write."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-6.0, -6.0, 8.0, 1.0])


def ct(shape: tuple[int, ...] = (12, 14, 10)) -> np.ndarray:
    """Something like a CT: air outside, soft tissue inside."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[2:-2, 2:-2] = np.random.default_rng(0).integers(-100, 200, voxels[2:-2, 2:-2].shape)
    return voxels


def nifti(
    path: Path,
    voxels: np.ndarray | None = None,
    affine: np.ndarray | None = AFFINE,
    change: Callable | None = None,
    **fields,
) -> Path:
    """A NIfTI file whose header fields can be set to what no library would write."""
    voxels = ct() if voxels is None else voxels
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    if affine is not None:
        header.set_sform(affine, 1)
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    for name, value in fields.items():
        header[name] = value
    if change is not None:
        change(header)
    content = header.binaryblock + b"\0" * 4 + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path
