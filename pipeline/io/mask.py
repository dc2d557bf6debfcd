"""Write masks and probabilities on the grid of a scan, with the names and colours of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from ..io import Grid
from ..runtime.files import whole_file
from .grid import LPS_TO_RAS, ItkGeometry
from .scan_files import ITK, MASK_ENDINGS, ending_of
from .segments import Segment, label_table, segments_of, slicer_entries

#: Text fields of a NIfTI header that may name the patient.
PRIVATE_FIELDS = ("descrip", "db_name", "aux_file", "intent_name", "data_type")


#: Formats of masks: the scan's own, or the one that 3D Slicer loads as a segmentation.
FORMATS = ("scan", "seg-nrrd")


def mask_path(grid: Grid, directory: str | Path, mask_format: str = "scan") -> Path:
    """Return the path of a scan's mask: ``<name>_seg`` in the scan's own format, or ``<name>.seg.nrrd``.

    A DICOM directory's mask becomes ``.nii.gz``; a header with its data in a second file (``.mhd``, ``.nhdr``)
    becomes the one-file form of its format.
    """
    if mask_format == "seg-nrrd":
        return Path(directory) / f"{grid.name}.seg.nrrd"
    ending = ending_of(grid.path) if isinstance(grid.header, ItkGeometry | nib.Nifti1Header) else ""
    ending = MASK_ENDINGS.get(ending, ending)
    return Path(directory) / f"{grid.name}_seg{ending}"


def write_mask(
    mask: np.ndarray,
    like: Grid,
    directory: str | Path,
    classes: Sequence[str] = (),
    mask_format: str = "scan",
) -> Path:
    """Write ``mask`` (X, Y, Z, uint8) on exactly the grid ``like``; return the path.

    Args:
        mask: class of each voxel.
        like: grid of the scan.
        directory: directory of the file.
        classes: names of the classes, background first. NIfTI and NRRD files hold names and colours with them.
        mask_format: one of ``FORMATS``.
    """
    if mask.shape != like.shape:
        raise ValueError(f"mask must have the scan's shape {like.shape}, got {mask.shape}")
    path, segments = mask_path(like, directory, mask_format), segments_of(classes)
    with whole_file(path) as temporary:
        if ending_of(path) in ITK:
            geometry = like.header if isinstance(like.header, ItkGeometry) else _itk_geometry(like)
            image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)))
            image.SetSpacing(geometry.spacing)
            image.SetOrigin(geometry.origin)
            image.SetDirection(geometry.direction)
            for key, value in slicer_entries(segments, mask.shape).items() if segments else ():
                image.SetMetaData(key, value)
            sitk.WriteImage(image, str(temporary), useCompression=True)
        else:
            nib.save(_nifti(mask, like, segments), temporary)
    return path


def _itk_geometry(like: Grid) -> ItkGeometry:
    affine = LPS_TO_RAS @ like.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    return ItkGeometry(
        tuple(map(float, spacing)), tuple(map(float, affine[:3, 3])), tuple(map(float, direction.ravel()))
    )


def _nifti(mask: np.ndarray, like: Grid, segments: Sequence[Segment]) -> nib.Nifti1Image:
    if isinstance(like.header, nib.Nifti1Header):
        header = like.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"], header["vox_offset"] = 0, 0, 0  # nibabel sets the offset
        for field in PRIVATE_FIELDS:
            if field in header:
                header[field] = b""
        # With an affine of None, nibabel keeps the header's own sform and qform.
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(mask, None, header)
    else:
        image = nib.Nifti1Image(mask, like.affine)
    if segments:
        # Code 0, as in the files of TotalSegmentator, whose readers look for the table there.
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, label_table(segments)))
    return image


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
