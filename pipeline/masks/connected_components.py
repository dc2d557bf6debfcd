"""Find the connected components of a mask and their place in the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

#: Classes of a mask, as numbered by KiTS19 and KiTS23.
KIDNEY, TUMOUR, CYST = 1, 2, 3
#: Foreground smaller than this is not a kidney, in mL; a healthy one has 100 to 250.
LEAST_KIDNEY_ML = 20.0
#: Voxels above this are body, in HU.
BODY_HU = -300
#: One voxel in so many along each axis is sampled to locate the body.
SAMPLED = 8
#: Voxels counted at a time; each takes eight bytes.
COUNTED = 1 << 22


class Components(NamedTuple):
    """Hold the components of a region, connected through faces.

    Attributes:
        numbers: int32, of the region's shape: the component of each voxel, from 1; 0 outside.
        sizes: voxels of each component, by number; 0 for number 0.
    """

    numbers: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, region: np.ndarray) -> Components:
        """Find the connected components of a boolean region."""
        numbers, count = ndimage.label(region)
        sizes = np.zeros(count + 1, dtype=np.int64)
        planes = max(1, COUNTED // max(1, numbers[0].size))
        for start in range(0, len(numbers), planes):
            found = np.bincount(numbers[start : start + planes].ravel())
            sizes[: len(found)] += found
        sizes[0] = 0
        return cls(numbers, sizes)

    def largest_first(self, at_least: float = 1) -> list[int]:
        """Return the numbers of the components of at least so many voxels, largest first."""
        order = np.argsort(-self.sizes, kind="stable")
        return [int(number) for number in order[: np.count_nonzero(self.sizes >= max(at_least, 1))]]

    def only(self, chosen: Sequence[int]) -> np.ndarray:
        """Return a uint8 array: the first of the components ``chosen`` (at most 255) is 1, the next 2, all else 0."""
        names = np.zeros(len(self.sizes), dtype=np.uint8)
        names[list(chosen)] = np.arange(1, len(chosen) + 1)
        result = np.empty(self.numbers.shape, dtype=np.uint8)
        for plane, numbers in zip(result, self.numbers, strict=True):
            plane[...] = names[numbers]  # all at once would need eight bytes a voxel
        return result


def box_around(labels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the smallest box around the foreground; None if it is empty."""
    sides = []
    for axis in range(3):
        present = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(present):
            return None
        sides.append(slice(int(present[0]), int(present[-1]) + 1))
    return sides[0], sides[1], sides[2]


def affine_of(box: tuple[slice, ...], affine: np.ndarray) -> np.ndarray:
    """Return the affine of a box cut out of a grid with ``affine``."""
    moved = affine.copy()
    moved[:, 3] = affine @ np.array([*(side.start for side in box), 1.0])
    return moved


def body_centre(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the body's centre of mass in RAS millimetres; its first coordinate is that of the middle plane.

    Args:
        voxels: in HU; without a body, the grid's centre is returned.
        affine: of their grid, to RAS millimetres.
    """
    start = (np.array(voxels.shape) - 1) % SAMPLED // 2  # equal margins in front and behind
    i, j, k = (slice(int(first), None, SAMPLED) for first in start)
    body = np.argwhere(voxels[i, j, k] > BODY_HU) * SAMPLED + start
    centre = body.mean(axis=0) if len(body) else (np.array(voxels.shape) - 1) / 2
    return np.asarray(affine[:3, :3] @ centre + affine[:3, 3])


def centre_of(component: np.ndarray) -> np.ndarray:
    """Return the centre of mass of a boolean region in voxels, by axis, since a list of all voxels is large."""
    counts = [component.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return np.array([count @ np.arange(len(count)) / count.sum() for count in counts])


def right_of(shape: tuple[int, ...], affine: np.ndarray, middle: float) -> np.ndarray:
    """Mark the voxels on the patient's right: boolean, of ``shape``, possibly a broadcast view.

    The world's first axis points to the patient's right.
    """
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    if np.count_nonzero(np.abs(affine[0, :3]) > 1e-6) == 1:  # one axis decides, so no volume is needed
        axis = int(np.argmax(np.abs(affine[0, :3])))
        along = (i, j, k)[axis] * affine[0, axis] + affine[0, 3]
        return np.broadcast_to(along > middle, shape)
    return np.asarray(i * affine[0, 0] + j * affine[0, 1] + k * affine[0, 2] + affine[0, 3] > middle)
