"""Place voxels in the patient, and resample values between regular grids.

Patient coordinates are in mm in the array's axis order, KiTS19's IPL: z grows towards the feet, y towards the
back, x towards the patient's left. The origin is on the midline, at the kidneys' mean height and depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Field = NDArray[np.floating[Any]]  # float32 if it is large
Corner = Sequence[float] | NDArray[np.float64]
Box = tuple[slice, slice, slice]

# A cubic B-spline over white noise keeps 151/315 of the variance per axis.
_SPLINE_GAIN = float((315 / 151) ** 1.5)


@dataclass(frozen=True)
class Grid:
    """Define a regular grid in patient coordinates: `origin_mm` is the centre of voxel (0, 0, 0)."""

    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def axis(self, axis: int) -> Field:
        """Return the voxel centres along one axis, in mm."""
        steps = np.arange(self.shape[axis], dtype=np.float64)
        return (self.origin_mm[axis] + self.spacing_mm[axis] * steps).astype(np.float32)

    def axes(self, box: Box | None = None) -> tuple[Field, Field, Field]:
        """Return the voxel centres as three arrays that broadcast to the shape of the grid or of `box`."""
        z, y, x = (self.axis(a) if box is None else self.axis(a)[box[a]] for a in range(3))
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def box(self, low_mm: Corner, high_mm: Corner) -> Box | None:
        """Return slices of the voxels between two corners, or None if empty."""
        slices = []
        for a in range(3):
            first = int(np.ceil((low_mm[a] - self.origin_mm[a]) / self.spacing_mm[a]))
            last = int(np.floor((high_mm[a] - self.origin_mm[a]) / self.spacing_mm[a]))
            first, last = max(first, 0), min(last, self.shape[a] - 1)
            if first > last:
                return None
            slices.append(slice(first, last + 1))
        return slices[0], slices[1], slices[2]

    def within(self, box: Box) -> Grid:
        """Return the grid of the voxels in `box`."""
        origin = [self.origin_mm[a] + box[a].start * self.spacing_mm[a] for a in range(3)]
        shape = [box[a].stop - box[a].start for a in range(3)]
        return Grid((origin[0], origin[1], origin[2]), self.spacing_mm, (shape[0], shape[1], shape[2]))

    def resampled(self, pitch_mm: float) -> Grid:
        """Return an isotropic grid of `pitch_mm` over the same field, one voxel larger on each side."""
        low = [o - s / 2 - pitch_mm for o, s in zip(self.origin_mm, self.spacing_mm, strict=True)]
        extent = [n * s + 2 * pitch_mm for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        shape = [int(np.ceil(e / pitch_mm)) + 1 for e in extent]
        return Grid((low[0], low[1], low[2]), (pitch_mm,) * 3, (shape[0], shape[1], shape[2]))

    def nearest(self, other: Grid) -> list[NDArray[np.intp]]:
        """Return, per axis, the index of the voxel nearest to each voxel of `other`, clamped to the field."""
        indices = []
        for a in range(3):
            at = np.rint((other.axis(a) - self.origin_mm[a]) / self.spacing_mm[a]).astype(np.intp)
            indices.append(np.clip(at, 0, self.shape[a] - 1))
        return indices


def interpolation(source: Grid, target: Grid, axis: int, taps: int = 1) -> csr_array:
    """Return the Catmull-Rom interpolation matrix (target voxels, source voxels) along one axis.

    With `taps` > 1 each target voxel is the mean of that many points across its width, since a scanner averages over
    the slice thickness.
    """
    columns, weights = [], []
    for tap in range(taps):
        shift = ((tap + 0.5) / taps - 0.5) * target.spacing_mm[axis]
        at = (target.axis(axis) + shift - source.origin_mm[axis]) / source.spacing_mm[axis]
        base = np.floor(at)
        t = at - base
        kernel = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        for offset, weight in enumerate(kernel):
            columns.append(np.clip(base.astype(np.intp) + offset - 1, 0, source.shape[axis] - 1))
            weights.append(weight / taps)
    return _rows(columns, weights, source.shape[axis])


def _rows(columns: list[NDArray[np.intp]], weights: list[Field], width: int) -> csr_array:
    """Build a sparse matrix from the k-th entry of every row."""
    height = len(columns[0])
    rows = np.tile(np.arange(height), len(columns))
    entries = (np.concatenate(weights).astype(np.float32), (rows, np.concatenate(columns)))
    return csr_array(entries, shape=(height, width))


def transport(values: Field, matrices: Sequence[csr_array]) -> Field:
    """Apply one matrix per axis to a (z, y, x) array.

    Sparse matrices use one thread; a threaded BLAS is slow when several cases are made at once.
    """
    for matrix in matrices:
        # Each round resamples the leading axis and moves it to the back; three rounds restore the order.
        across = matrix @ values.reshape(values.shape[0], -1)
        values = np.ascontiguousarray(np.moveaxis(across.reshape(-1, *values.shape[1:]), 0, -1))
    return values


class Texture:
    """Provide a smooth random field of zero mean and unit variance, fixed in the patient.

    A cubic B-spline smooths white noise on a periodic lattice of `scale_mm`, about the size of a blob. Every grid
    samples the same field.
    """

    def __init__(self, rng: np.random.Generator, scale_mm: float, nodes: int = 64) -> None:
        self.scale_mm = scale_mm
        self.values = rng.standard_normal((nodes, nodes, nodes), np.float32)

    def sample(self, grid: Grid) -> Field:
        """Sample the field on a grid, float32."""
        return transport(self.values, [self._weights(grid.axis(a)) for a in range(3)]) * _SPLINE_GAIN

    def _weights(self, mm: Field) -> csr_array:
        nodes = self.values.shape[0]
        base = np.floor(mm / self.scale_mm)
        t = mm / self.scale_mm - base
        kernel = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        columns = [(base.astype(np.intp) + offset - 1) % nodes for offset in range(4)]
        return _rows(columns, [weight / 6 for weight in kernel], nodes)
