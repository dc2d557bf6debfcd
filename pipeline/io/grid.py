"""Describe a scan's geometry, with all data that a mask on the same grid needs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .itk import ItkGeometry

#: Second largest cosine between an axis and the world's axes above which a grid is oblique.
OBLIQUE = 0.01


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
