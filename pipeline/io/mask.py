"""Write masks to files, on exactly the grid of their scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from ..runtime.files import whole_file
from . import Grid
from .itk import ItkGeometry
from .scan_lists import ITK, MASK_ENDINGS, ending_of

#: Text fields of a NIfTI header that may name the patient.
PRIVATE_FIELDS = ("descrip", "db_name", "aux_file", "intent_name", "data_type")


def mask_path(grid: Grid, directory: str | Path) -> Path:
    """Return the path of a scan's mask: ``<name>_seg`` in the scan's own format.

    A DICOM directory's mask becomes ``.nii.gz``; a header with its data in a second file (``.mhd``, ``.nhdr``)
    becomes the one-file form of its format.
    """
    ending = ending_of(grid.path) if isinstance(grid.header, ItkGeometry | nib.Nifti1Header) else ""
    ending = MASK_ENDINGS.get(ending, ending)
    return Path(directory) / f"{grid.name}_seg{ending}"


def write_mask(mask: np.ndarray, like: Grid, directory: str | Path) -> Path:
    """Write ``mask`` (X, Y, Z, uint8) on exactly the grid ``like``, in the scan's own format; return the path."""
    if mask.shape != like.shape:
        raise ValueError(f"mask must have the scan's shape {like.shape}, got {mask.shape}")
    path = mask_path(like, directory)
    with whole_file(path) as temporary:
        if ending_of(path) in ITK:
            image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)))
            image.SetSpacing(like.header.spacing)
            image.SetOrigin(like.header.origin)
            image.SetDirection(like.header.direction)
            sitk.WriteImage(image, str(temporary), useCompression=True)
        else:
            nib.save(_nifti(mask, like), temporary)
    return path


def _nifti(mask: np.ndarray, like: Grid) -> nib.Nifti1Image:
    if not isinstance(like.header, nib.Nifti1Header):
        return nib.Nifti1Image(mask, like.affine)
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    for field in PRIVATE_FIELDS:
        if field in header:
            header[field] = b""
    # With an affine of None, nibabel keeps the header's own sform and qform.
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(mask, None, header)


def probabilities_path(grid: Grid, directory: str | Path) -> Path:
    """Return the path of a scan's probabilities."""
    return Path(directory) / f"{grid.name}_probabilities.npy"


@contextmanager
def probabilities_file(path: Path, grid: Grid, classes: int) -> Iterator[Callable[[torch.Tensor], None]]:
    """Open a NumPy file of float16 (X, Y, Z, classes) on the scan's grid; NIfTI lacks float16.

    The yielded function takes logits (classes, n, Y, Z), slab after slab along X, so the whole array is never
    in memory. ``numpy.load(path, mmap_mode="r")`` reads the file with as little memory.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": (*grid.shape, classes)}
        np.lib.format.write_array_header_1_0(stream, header)

        def put(logits: torch.Tensor) -> None:
            shares = torch.softmax(logits.float(), dim=0).to(torch.float16).permute(1, 2, 3, 0)
            stream.write(np.ascontiguousarray(shares.numpy()).data)

        yield put
        stream.flush()
