"""Describe and check a scan's geometry, with all data that a mask on the same grid needs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from ..runtime.errors import CaseError

#: Limits of a plausible voxel size in mm.
SMALLEST_MM, LARGEST_MM = 0.05, 20.0
#: Largest entry of an affine, in mm; a scan farther from its origin has a damaged header.
FARTHEST_MM = 1e6
#: Convert world axes of ITK (left, posterior, superior) to those of NIfTI (right, anterior, superior).
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Second largest cosine between an axis and the world's axes above which a grid is oblique.
OBLIQUE = 0.01


class ItkGeometry(NamedTuple):
    """Hold the geometry as ITK stores it, so that a mask gets exactly the same numbers."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def affine(self) -> np.ndarray:
        """Return the 4×4 affine from voxel indices to RAS millimetres."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.array(self.spacing)
        affine[:3, 3] = self.origin
        return LPS_TO_RAS @ affine


@dataclass(frozen=True, eq=False)
class Grid:
    """Hold a scan's geometry without its voxels.

    Attributes:
        path: file or directory of the scan.
        name: name of its results below an output directory, with ``/`` between directories.
        shape: (X, Y, Z).
        affine: 4×4, voxel indices to RAS millimetres.
        header: the format's data for a mask on the same grid: a NIfTI header, an
            ItkGeometry, the paths of DICOM slices in order, or None.
    """

    path: Path
    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    header: Any = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the voxel size along the three axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def oblique(self) -> bool:
        """Return whether the axes are rotated or sheared against the world's axes."""
        cosines = np.sort(np.abs(self.affine[:3, :3] / np.array(self.spacing_mm)), axis=0)
        return bool(cosines[1].max() > OBLIQUE)

    def facing(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reorient an array on this grid to the radiological view: slices from above, rows from the front.

        Returns:
            A view with axes to inferior, posterior and left (the nearest ones on an oblique grid), and its
            4×4 affine.
        """
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(self.affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
        )
        affine = self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape)
        return nib.orientations.apply_orientation(array, turn), affine

    def same_as(self, other: Grid) -> bool:
        """Return whether all voxels of two grids lie at the same place, to a micrometre."""
        return self.shape == other.shape and bool(np.allclose(self.affine, other.affine, atol=1e-3))

    def to_text(self) -> str:
        """Serialise the grid as JSON, which every MONAI collate function passes on unchanged."""
        content: dict[str, Any] = {"path": str(self.path), "name": self.name, "shape": self.shape}
        content["affine"] = self.affine.tolist()
        if isinstance(self.header, ItkGeometry):
            content["itk"] = self.header._asdict()
        elif isinstance(self.header, tuple):
            content["slices"] = [str(path) for path in self.header]
        elif self.header is not None:
            content["nifti"] = base64.b64encode(self.header.binaryblock).decode()
        return json.dumps(content)

    @classmethod
    def from_text(cls, text: str) -> Grid:
        """Restore a grid from the output of :meth:`to_text`."""
        content = json.loads(text)
        header: Any = None
        if "itk" in content:
            header = ItkGeometry(*(tuple(content["itk"][field]) for field in ItkGeometry._fields))
        elif "slices" in content:
            header = tuple(Path(path) for path in content["slices"])
        elif "nifti" in content:
            block = base64.b64decode(content["nifti"])
            header = (nib.Nifti2Header if len(block) == 540 else nib.Nifti1Header)(binaryblock=block, check=False)
        x, y, z = content["shape"]
        return cls(Path(content["path"]), content["name"], (x, y, z), np.array(content["affine"]), header)


def believable(spacing_mm: Sequence[float] | np.ndarray) -> bool:
    """Return whether a voxel size is plausible."""
    return all(SMALLEST_MM <= size <= LARGEST_MM for size in spacing_mm)


def require_regular(path: Path, affine: np.ndarray) -> None:
    """Raise a CaseError if an affine (4×4) is not finite or puts different voxels at one place."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not np.isfinite(affine).all()
        or np.abs(affine).max() > FARTHEST_MM
        or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * np.prod(spacing)
    ):
        raise CaseError(f"{path}: its affine is singular or far away, so the positions are unknown; export it again")


def check_geometry(path: Path, shape: Sequence[int], affine: np.ndarray, way_out: str = "") -> None:
    """Raise a CaseError if a scan's geometry is not plausible; ``way_out`` follows "correct the header"."""
    if min(shape) < 2:
        raise CaseError(f"{path}: has shape {tuple(shape)}; a scan has three axes of several voxels each")
    require_regular(path, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not believable(spacing):
        raise CaseError(
            f"{path}: a voxel size of {' x '.join(f'{s:g}' for s in spacing)} mm is not plausible "
            f"({SMALLEST_MM} to {LARGEST_MM} mm); correct the header{way_out}"
        )
