"""What a CT's voxels and their places can be; the same for scans to predict and cases to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import CaseError

#: Bounds of a believable voxel size in mm.
SMALLEST_MM, LARGEST_MM = 0.05, 20.0
#: Beyond this a number is no HU at all, not even wrapped or padding.
ABSURD = 1e5


def believable(spacing_mm: Sequence[float] | np.ndarray) -> bool:
    """Whether a voxel can be of that size."""
    return all(SMALLEST_MM <= size <= LARGEST_MM for size in spacing_mm)


def require_regular(path: Path, affine: np.ndarray) -> None:
    """Raises a CaseError if an affine (4×4) puts different voxels at one place, or nowhere."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * np.prod(spacing):
        raise CaseError(f"{path}: its affine is singular, so nothing says where a voxel lies; export it again")


def check_geometry(path: Path, shape: Sequence[int], affine: np.ndarray, way_out: str = "") -> None:
    """Raises a CaseError if the voxels of a scan lie where none can; ``way_out`` follows "correct the header"."""
    if min(shape) < 2:
        raise CaseError(f"{path}: has shape {tuple(shape)}; a scan has three axes of several voxels each")
    require_regular(path, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not believable(spacing):
        raise CaseError(
            f"{path}: a voxel of {' x '.join(f'{s:g}' for s in spacing)} mm is not believable "
            f"({SMALLEST_MM} to {LARGEST_MM} mm); correct the header{way_out}"
        )


def require_numbers(path: Path, stored: np.dtype) -> None:
    """Raises a CaseError if values of that type can be no CT."""
    if stored.kind not in "iuf":
        kind = {"c": "complex", "V": "colour"}.get(stored.kind, "unknown")
        raise CaseError(f"{path}: its voxels are {kind} ({stored}), not numbers in HU; it is no CT")
