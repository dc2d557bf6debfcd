"""Read and validate a CT scan from a file or a DICOM directory, in its own geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import CaseError
from . import Admission, Found, Grid, ReadOptions, Stored, find_scans
from .dicom import read_dicom
from .grid import check_geometry
from .itk import read_itk
from .nifti import read_nifti
from .scan_files import ITK, NIFTI, ending_of, first_bytes, scan_name
from .voxels import Collect, Hounsfield


@dataclass(frozen=True, eq=False)
class Volume:
    """Hold the voxels of a file on their grid.

    Attributes:
        grid: where the voxels lie.
        voxels: (X, Y, Z).
        warnings: what a user should know about the file.
    """

    grid: Grid
    voxels: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.grid.path

    @property
    def name(self) -> str:
        return self.grid.name

    @property
    def affine(self) -> np.ndarray:
        """Return the 4×4 affine from voxel indices to RAS millimetres."""
        return self.grid.affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the voxel size along the three axes."""
        return self.grid.spacing_mm


@dataclass(frozen=True, eq=False)
class Scan(Volume):
    """Hold a CT: ``voxels`` (X, Y, Z) in HU, int16 where the file holds whole numbers and float32 otherwise.

    They lie within the range of a scanner's 12 bits; padding counts as air.
    """


def read_scan(source: str | Path | Found, options: ReadOptions | None = None, admit: Admission | None = None) -> Scan:
    """Read and validate a scan: NIfTI, NRRD, MetaImage, or a directory with one DICOM series.

    Args:
        source: a result of :func:`find_scans`, or a path.
        options: allow scans that would otherwise be refused.
        admit: receives shape and affine before the voxels are read, and may raise.

    Raises:
        CaseError: naming the file and the reason, if it cannot be read or is not a 3-D CT.
    """
    grid, stored = read_volume(source, options or ReadOptions(), Hounsfield, admit)
    oblique = ("its axes are oblique to the body's; it is resampled with its full affine",) if grid.oblique else ()
    return Scan(grid, stored.voxels, (*stored.warnings, *oblique))


def read_volume(
    source: str | Path | Found, options: ReadOptions, collect: Collect, admit: Admission | None = None
) -> tuple[Grid, Stored]:
    """Read the grid and the voxels of a file; ``collect`` checks the voxels; see :func:`read_scan` for the rest.

    Raises:
        CaseError: naming the file and the reason.
    """
    found = source if isinstance(source, Found) else _found(Path(source), options)
    path = found.path

    def admitted(shape: tuple[int, int, int], affine: np.ndarray) -> None:
        check_geometry(path, shape, affine, ", or give it with --spacing")
        if admit is not None:
            admit(shape, affine)

    stored = _read(found, options, admitted, collect)
    x, y, z = stored.voxels.shape
    return Grid(path, found.name, (x, y, z), stored.affine, stored.header), stored


def _found(path: Path, options: ReadOptions) -> Found:
    if path.is_dir() and not ending_of(path):
        scans = find_scans(path, options)
        if len(scans) > 1:
            raise CaseError(f"{path}: contains {len(scans)} scans; name one of them")
        return scans[0]
    return Found(path, scan_name(path))


def _read(found: Found, options: ReadOptions, admit: Admission, collect: Collect) -> Stored:
    path = found.path
    if found.error:
        raise CaseError(f"{path}: {found.error}")
    if found.dicom is not None:
        chosen = ReadOptions(**{**vars(options), "series": found.series or options.series})
        return read_dicom(found.dicom, chosen, admit)
    if ending_of(path) in NIFTI:
        return read_nifti(path, options, admit, collect)
    if ending_of(path) in ITK:
        return read_itk(path, options, admit, collect)
    first_bytes(path)
    raise CaseError(f"{path}: unknown file type; supported are {', '.join((*NIFTI, *ITK))} and DICOM directories")


def same_grid(a: Volume, b: Volume) -> bool:
    """Return whether all voxels of two scans lie at the same place, to a micrometre."""
    return a.grid.same_as(b.grid)
