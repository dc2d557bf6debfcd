"""Check voxel sizes, shapes and affines of scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime.errors import CaseError

#: Limits of a plausible voxel size in mm.
SMALLEST_MM, LARGEST_MM = 0.05, 20.0
#: Largest entry of an affine, in mm; a scan farther from its origin has a damaged header.
FARTHEST_MM = 1e6


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
