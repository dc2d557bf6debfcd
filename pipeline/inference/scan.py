"""A CT scan from a file or a DICOM folder, checked, in its own geometry; and a mask back into that geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from ..errors import CaseError, UsageError
from ..files import whole_file

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
#: Bounds of a believable voxel size in mm.
SMALLEST_MM, LARGEST_MM = 0.05, 20.0
#: World axes of ITK (left, posterior, superior) against those of NIfTI (right, anterior, superior).
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ItkGeometry(NamedTuple):
    """Geometry as ITK keeps it, so that a mask gets the very numbers back."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Scan:
    """A 3-D CT as it was stored.

    Attributes:
        path: file or folder it came from.
        voxels: (X, Y, Z) in HU, as stored.
        affine: 4×4, voxel indices to RAS millimetres.
        header: what the format needs to write a mask on the same grid (a NIfTI header or an ItkGeometry).
        warnings: what a user should know about it.
    """

    path: Path
    voxels: np.ndarray
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along its three axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def name(self) -> str:
        """File name without the endings of images."""
        return scan_name(self.path)


def _ending(path: Path) -> str:
    lower = path.name.lower()
    return next((e for e in (".nii.gz", *NIFTI, *ITK) if lower.endswith(e)), "")


def scan_name(path: Path) -> str:
    """File name without the endings of images; the folder's for KiTS19's ``case_00000/imaging.nii.gz``."""
    path = path.resolve() if path.name in ("", "..") else path
    ending = _ending(path)
    name = path.name[: len(path.name) - len(ending)] if ending else path.name
    return path.absolute().parent.name if name == "imaging" else name


def _is_scan(path: Path) -> bool:
    """Neither hidden, as unfinished files are, nor a mask of ours."""
    return path.is_file() and bool(_ending(path)) and path.name[0] != "." and not scan_name(path).endswith("_seg")


def find_scans(given: str | Path) -> list[Path]:
    """The scans that ``given`` names: one file, a DICOM folder, or a folder of scans (without masks ``*_seg``).

    Raises:
        UsageError: if there is none.
    """
    path = Path(given)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    scans = sorted(child for child in path.iterdir() if _is_scan(child))
    if scans:
        return scans
    if sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path)):
        return [path]
    raise UsageError(f"{path}: holds neither {', '.join((*NIFTI, *ITK))} files nor a DICOM series")


def read_scan(path: str | Path) -> Scan:
    """Reads and checks a scan: NIfTI, NRRD, MetaImage, or a folder with one DICOM series.

    Raises:
        CaseError: naming the file and the reason, if it cannot be read or is no 3-D CT.
    """
    path = Path(path)
    if path.is_dir():
        scan = _read_dicom(path)
    elif _ending(path) in NIFTI:
        scan = _read_nifti(path)
    elif _ending(path) in ITK:
        scan = _read_itk(path, lambda: sitk.ReadImage(str(path)))
    else:
        raise CaseError(f"{path}: unknown kind of file; known are {', '.join((*NIFTI, *ITK))} and DICOM folders")
    _check(scan)
    return scan


def _read_nifti(path: Path) -> Scan:
    try:
        image = nib.load(path)
        voxels = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel, gzip and zlib raise many types for a damaged file
        raise CaseError(f"{path}: cannot be read ({error}); copy or export it again") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    return Scan(path, voxels, np.asarray(image.affine, dtype=np.float64), image.header.copy())  # type: ignore[attr-defined]


def _read_itk(path: Path, read: Callable[[], sitk.Image]) -> Scan:
    try:
        image = read()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CaseError(f"{path}: cannot be read ({reason}); copy or export it again") from error
    voxels, affine, geometry = sitk.GetArrayFromImage(image), np.eye(4), None
    if image.GetDimension() == 3:
        geometry = ItkGeometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * np.array(geometry.spacing)
        affine[:3, 3] = geometry.origin
        voxels = voxels.transpose(2, 1, 0) if voxels.ndim == 3 else voxels
    return Scan(path, voxels, LPS_TO_RAS @ affine, geometry)


def _read_dicom(folder: Path) -> Scan:
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise CaseError(f"{folder}: holds {len(series)} DICOM series; keep one series a folder")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    return _read_itk(folder, reader.Execute)


def _check(scan: Scan) -> None:
    voxels = scan.voxels
    if voxels.ndim != 3 or min(voxels.shape) < 2:
        raise CaseError(f"{scan.path}: has shape {voxels.shape}; a scan has three axes of several voxels each")
    if voxels.dtype.kind not in "iuf":
        raise CaseError(f"{scan.path}: its voxels are {voxels.dtype}, not numbers in HU; it is no CT")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise CaseError(f"{scan.path}: holds voxels that are not finite numbers; export it again")
    if not np.isfinite(scan.affine).all() or abs(np.linalg.det(scan.affine[:3, :3])) < 1e-9:
        raise CaseError(f"{scan.path}: its affine is singular, so nothing says where a voxel lies; export it again")
    if not all(SMALLEST_MM <= s <= LARGEST_MM for s in scan.spacing_mm):
        raise CaseError(
            f"{scan.path}: a voxel of {scan.spacing_mm} mm is not believable "
            f"({SMALLEST_MM} to {LARGEST_MM} mm); correct the header"
        )


def same_grid(a: Scan, b: Scan) -> bool:
    """Whether voxel for voxel the two lie at the same place (to a micrometre)."""
    return a.voxels.shape == b.voxels.shape and bool(np.allclose(a.affine, b.affine, atol=1e-3))


def write_mask(mask: np.ndarray, like: Scan, folder: str | Path) -> Path:
    """Writes ``mask`` (X, Y, Z, uint8) on exactly the grid of ``like`` as ``<name>_seg`` in the scan's own format.

    A DICOM folder's mask becomes ``.nii.gz``; a header with its data in a second file (``.mhd``, ``.nhdr``)
    becomes the one-file form of its format. Returns the file's path.
    """
    if mask.shape != like.voxels.shape:
        raise ValueError(f"mask must have the scan's shape {like.voxels.shape}, got {mask.shape}")
    ending = _ending(like.path) or ".nii.gz"
    ending = {".mhd": ".mha", ".nhdr": ".nrrd"}.get(ending, ending)
    path = Path(folder) / f"{like.name}_seg{ending}"
    if ending in ITK:
        image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)))
        image.SetSpacing(like.header.spacing)
        image.SetOrigin(like.header.origin)
        image.SetDirection(like.header.direction)
        with whole_file(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        return path
    if isinstance(like.header, nib.Nifti1Header):
        header = like.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, 0
        # The affine goes in as None, so that nibabel leaves the header's own sform and qform alone.
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        result = kind(mask, None, header)
    else:
        result = nib.Nifti1Image(mask, like.affine)
    with whole_file(path) as temporary:
        nib.save(result, temporary)
    return path
