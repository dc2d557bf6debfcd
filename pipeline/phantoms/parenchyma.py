"""Fill labelled kidneys and their surroundings: cortex, medulla, tumours, cysts and fat capsule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..masks.connected_components import box_around
from .kidneys import CYST, KIDNEY, TUMOUR
from .patient import Attenuation
from .patient_grid import Box, Field, Grid, Texture
from .shapes import Ellipsoid, Point, Waves, blend, inside


@dataclass(frozen=True)
class Parenchyma:
    """Hold the HU of kidney, tumour and cyst, each on all of `grid`, a box of the model around the label."""

    box: Box
    grid: Grid
    kidney_hu: Field
    tumour_hu: Field
    capsule: Field  # share of perirenal fat, 0 to 1
    sinus: Field  # share of the collecting system outside the label, 0 to 1
    cyst_hu: Field | None = None  # None without labelled cysts

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        label: NDArray[np.uint8],
        voxels: Grid,
        model: Grid,
        points_mm: NDArray[np.float64],
        tissue: Attenuation,
        cysts: bool = False,
    ) -> Parenchyma:
        """Fill the label map of grid `voxels` at the pitch of `model`.

        With `cysts` the label map has all cysts; without, some are added that it labels as kidney.
        """
        margin = 34.0
        box = model.box(points_mm.min(0) - margin, points_mm.max(0) + margin)
        if box is None:
            raise ValueError("the label map is outside its own grid")
        grid = model.within(box)
        coarse = label[np.ix_(*voxels.nearest(grid))]
        cyst_hu = _cyst_hu(rng, label, voxels, coarse, grid) if cysts else None
        pitch = grid.spacing_mm[0]
        fine, broad = Texture(rng, 4.5).sample(grid), Texture(rng, 13.0).sample(grid)
        outside = _depth(coarse == 0, pitch)
        depth = _depth(coarse > 0, pitch)
        kidney = _kidney_hu(rng, depth, fine, broad, tissue, pitch)
        if not cysts:
            _add_cysts(rng, kidney, coarse, depth, grid)
        tumour = np.zeros_like(kidney)
        parts, count = ndimage.label(coarse == TUMOUR)
        inner = _depth(coarse == TUMOUR, pitch)
        nearest = _nearest_part(parts, count, pitch)
        for part in range(1, count + 1):
            here = nearest == part
            tumour[here] = _tumour_hu(rng, inner, fine, broad, tissue, pitch, parts == part)[here]
        thickness = rng.uniform(3, 16) * (1 + 0.45 * broad)
        capsule = inside(outside - np.maximum(thickness, 1.0), 2.5 * pitch)
        pelvis = _pelvis(rng, outside, broad, points_mm, grid)
        return cls(box, grid, kidney, tumour, capsule, pelvis, cyst_hu)


def _depth(mask: NDArray[np.bool_], pitch: float) -> Field:
    """Compute the distance in mm from the voxels of a mask to its outside; 0 outside."""
    distance: Field = ndimage.distance_transform_edt(mask, sampling=pitch).astype(np.float32)
    return distance


def _nearest_part(parts: NDArray[np.int32], count: int, pitch: float) -> NDArray[np.int32]:
    if count <= 1:
        return np.full_like(parts, count)
    empty = parts == 0
    at = ndimage.distance_transform_edt(empty, sampling=pitch, return_distances=False, return_indices=True)
    nearest: NDArray[np.int32] = parts[tuple(at)]
    return nearest


def _kidney_hu(
    rng: np.random.Generator, depth: Field, fine: Field, broad: Field, tissue: Attenuation, pitch: float
) -> Field:
    """Draw a bright cortex 5 to 8 mm thick, darker pyramids between its columns, and calyces."""
    thickness = rng.uniform(5, 8)
    pyramid = inside(thickness - depth + 1.5 * fine, 2 * pitch) * np.clip(0.75 + 0.7 * broad, 0, 1)
    hu = tissue.cortex + (tissue.medulla - tissue.cortex) * pyramid
    calyx = inside(14 - depth, 2 * pitch) * np.clip(1.2 * fine - 0.8, 0, 1)
    blend(hu, calyx, rng.uniform(-20, 30))
    result: Field = (hu + tissue.texture * 0.8 * fine).astype(np.float32)
    return result


def _add_cysts(rng: np.random.Generator, hu: Field, coarse: NDArray[np.uint8], depth: Field, grid: Grid) -> None:
    """Add zero to three cysts of water; KiTS19 labels a cyst as kidney."""
    seats = np.argwhere((coarse == KIDNEY) & (depth > 2.5) & (depth < 9))
    for _ in range(int(rng.choice(4, p=(0.55, 0.25, 0.12, 0.08)))):
        pick, radius, water = rng.uniform(), float(rng.uniform(3.5, 9)), float(rng.uniform(0, 20))
        if not len(seats):
            return
        at = seats[int(pick * len(seats))] * grid.spacing_mm[0] + np.asarray(grid.origin_mm)
        centre: Point = tuple(at.tolist())
        cyst = Ellipsoid(centre, (radius, radius * 0.9, radius))
        box = grid.box(*cyst.bounds(grid.spacing_mm[0]))
        if box is not None:
            blend(hu[box], inside(cyst.distance(*grid.axes(box)), grid.spacing_mm[0]), water)


def _cyst_hu(
    rng: np.random.Generator, label: NDArray[np.uint8], voxels: Grid, coarse: NDArray[np.uint8], grid: Grid
) -> Field | None:
    """Fill the cysts of a label map: water of U(0, 20) HU behind a thin wall of U(20, 60) HU; None without a cyst.

    One cyst in twelve is hyperdense, U(45, 90) HU. Each component of `label`, on the grid `voxels`, is a cyst. A small
    one may lie between the voxels of `coarse`, on `grid`, which then take its HU all around.
    """
    sides = box_around(label == CYST)
    if sides is None:
        return None
    pitch, start = grid.spacing_mm[0], np.array([side.start for side in sides])
    parts, count = ndimage.label(label[sides] == CYST)
    near = np.zeros(grid.shape, np.int32)
    inside_cysts = np.nonzero(coarse == CYST)
    at = [indices[i] - first for indices, i, first in zip(voxels.nearest(grid), inside_cysts, start, strict=True)]
    near[inside_cysts] = parts[tuple(at)]
    for part, where in enumerate(ndimage.find_objects(parts), start=1):
        middle = start + [(side.start + side.stop - 1) / 2 for side in where]
        at_mm = np.asarray(voxels.origin_mm) + middle * voxels.spacing_mm
        box = grid.box(at_mm - 1.5 * pitch, at_mm + 1.5 * pitch)
        if box is not None:
            near[box][near[box] == 0] = part
    water, dense = rng.uniform(0, 20, count), rng.uniform(45, 90, count)
    content = np.where(rng.uniform(size=count) < 1 / 12, dense, water).astype(np.float32)
    hu: Field = content[_nearest_part(near, count, pitch) - 1]
    depth = _depth(coarse == CYST, pitch)
    # A wall of half a millimetre fills a fifth of a voxel of the model.
    blend(hu, (0.2 * ((depth > 0) & (depth <= 1.01 * pitch))).astype(np.float32), rng.uniform(20, 60))
    return hu


def _tumour_hu(
    rng: np.random.Generator,
    inner: Field,
    fine: Field,
    broad: Field,
    tissue: Attenuation,
    pitch: float,
    part: NDArray[np.bool_],
) -> Field:
    """Draw a tumour: solid, necrotic, cystic or bright as the cortex (0.48, 0.32, 0.1 and 0.1)."""
    kind = int(rng.choice(4, p=(0.48, 0.32, 0.10, 0.10)))
    radius = max(float(inner[part].max()), 2 * pitch)
    mean = (
        rng.uniform(45, 105),
        rng.uniform(70, 120),
        rng.uniform(40, 90),
        rng.uniform(125, max(0.9 * tissue.cortex, 125)),
    )[kind]
    mean += (tissue.uptake - 1) * (mean - 35)  # without a contrast medium: 35 HU and nearly even
    uneven = rng.uniform(10, 24) * (1 + 0.6 * (tissue.uptake - 1))
    hu = mean + uneven * (0.8 * fine + 0.9 * broad)
    if kind in (1, 3):
        core = inside(rng.uniform(0.3, 0.55) * radius + 0.22 * radius * broad - inner, 0.25 * radius)
        blend(hu, core * (1.0 if kind == 1 else 0.6), rng.uniform(10, 40) + 4 * fine)
    if kind == 2:
        core = inside(rng.uniform(2.5, 5) - inner, 1.5 * pitch)
        septa = np.clip(1 - np.abs(broad) / 0.14, 0, 1)
        blend(hu, core * (1 - septa), rng.uniform(6, 28) + 3 * fine)
    result: Field = hu.astype(np.float32)
    return result


def _pelvis(
    rng: np.random.Generator, outside: Field, broad: Field, points_mm: NDArray[np.float64], grid: Grid
) -> Field:
    """Draw a small sac of urine, the collecting system, medial to each kidney and outside the label."""
    sinus = np.zeros(grid.shape, np.float32)
    for side in (-1, 1):
        points = points_mm[points_mm[:, 2] * side > 0]
        if len(points) < 8:
            continue
        middle = np.median(points, 0)
        at = middle + (4.0, -2.0, -side * rng.uniform(10, 18))
        radii = (float(rng.uniform(8, 18)), 6.0, float(rng.uniform(5, 9)))
        sac = Ellipsoid(tuple(at.tolist()), radii, None, Waves.draw(rng, 1, 20))
        box = grid.box(*sac.bounds(grid.spacing_mm[0]))
        if box is not None:
            share = inside(sac.distance(*grid.axes(box)), grid.spacing_mm[0])
            sinus[box] = np.maximum(sinus[box], share * np.clip(outside[box] / 4, 0, 1))
    return sinus
