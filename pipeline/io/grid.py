"""Where a scan's voxels lie, and all that a mask on the same grid needs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .itk import ItkGeometry

#: A direction further off a world axis than this (its cosine) makes a grid oblique.
OBLIQUE = 0.01


@dataclass(frozen=True, eq=False)
class Grid:
    """A scan without its voxels.

    Attributes:
        path: file or folder it came from.
        name: of its results below an output folder, with ``/`` between folders.
        shape: (X, Y, Z).
        affine: 4×4, voxel indices to RAS millimetres.
        header: what the format needs for a mask on the same grid: a NIfTI header, an
            ItkGeometry, the paths of DICOM slices in order, or None.
    """

    path: Path
    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    header: Any = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along its three axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def oblique(self) -> bool:
        """Whether its axes do not run along the world's, turned or sheared."""
        cosines = np.sort(np.abs(self.affine[:3, :3] / np.array(self.spacing_mm)), axis=0)
        return bool(cosines[1].max() > OBLIQUE)

    def facing(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array on this grid as radiologists look at it: slices from above, rows from in front.

        Returns:
            A view whose axes run to inferior, posterior, left, as far as those of an oblique grid do, and its
            4×4 affine.
        """
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(self.affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
        )
        affine = self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape)
        return nib.orientations.apply_orientation(array, turn), affine

    def same_as(self, other: Grid) -> bool:
        """Whether voxel for voxel the two lie at the same place, to a micrometre."""
        return self.shape == other.shape and bool(np.allclose(self.affine, other.affine, atol=1e-3))

    def to_text(self) -> str:
        """As JSON, which every collation of MONAI passes on as it is."""
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
        """The inverse of :meth:`to_text`."""
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
