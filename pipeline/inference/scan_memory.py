"""Estimate the memory that a scan needs before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kits_unet3d.transforms import PreprocessingParameters
from kits_unet3d.transforms.geometry import resampled_shape

from ..io import Grid
from ..runtime.errors import CaseError
from ..runtime.memory import GB, LIBRARIES


def stored_bytes(shape: Sequence[int]) -> float:
    """Return the most bytes of a scan's voxels; those of whole HU take half."""
    return float(np.prod(shape, dtype=np.float64)) * 4


def needed_bytes(shape: Sequence[int], affine: np.ndarray, parameters: PreprocessingParameters) -> float:
    """Return the resident memory of predicting one scan, in bytes, without the network's own for its windows.

    Args:
        shape: (X, Y, Z) of the scan.
        affine: 4×4 to RAS millimetres.
        parameters: preprocessing parameters of the model; their voxel size sets the size of the network's volume.
    """
    voxels = float(np.prod(shape, dtype=np.float64))
    world = np.abs(np.asarray(affine)[:3, :3])
    extent = world @ np.asarray(shape, dtype=np.float64)  # of the bounding box along the world's axes
    spacing = world.max(axis=1)
    boxed = np.ceil(extent / spacing)
    seen = resampled_shape([int(n) for n in boxed[::-1]], [float(s) for s in spacing[::-1]], parameters.spacing_mm)
    # With the windows' padding: at least to the window, otherwise by up to a stride.
    network = float(
        np.prod([max(n + s, r) for n, s, r in zip(seen, parameters.stride, parameters.roi_size, strict=True)])
    )
    stored = stored_bytes(shape)
    # An oblique scan is resampled from a float32 copy.
    x, y, z = shape
    rotated = 4 * voxels if Grid(Path(), "", (x, y, z), np.asarray(affine)).oblique else 0.0
    resampling = stored + rotated + 4 * float(np.prod(boxed)) + 4 * network
    windows = stored + 4 * network * (len(parameters.classes) + 4)
    restoring = stored + 4 * network * len(parameters.classes) + 2 * voxels
    return LIBRARIES + max(resampling, windows, restoring)


def require_memory(need: float, limit: float, path: str | Path) -> None:
    """Raise a CaseError with the numbers if ``need`` is above ``limit``, both in bytes."""
    if need > limit:
        raise CaseError(
            f"{path}: needs about {need / GB:.1f} GB of memory, more than the {limit / GB:.1f} GB allowed; "
            "allow more with --max-memory, or crop the scan"
        )
