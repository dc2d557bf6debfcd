"""Paint the patient on a 2.2 mm model, and scan it slice by slice into HU on the label's grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bowel import draw_bowel
from .kidneys import CYST, TUMOUR
from .organs import draw_upper_abdomen, draw_vessels
from .parenchyma import Parenchyma
from .patient import Attenuation, Landmarks
from .patient_grid import Field, Grid, Texture, interpolation, transport
from .shapes import blend, inside
from .torso import Torso

MODEL_PITCH_MM = 2.2
_AIR_HU = -1000.0
_SLAB = 8  # slices held in float32 at a time


def render(
    label: NDArray[np.uint8],
    grid: Grid,
    landmarks: Landmarks,
    points_mm: NDArray[np.float64],
    body: Torso,
    seed: int,
    contrast: str = "enhanced",
    cysts: bool = False,
) -> NDArray[np.int16]:
    """Render a label map as int16 HU of the same shape, -1024 and up.

    `points_mm` samples the labelled points, and `body` must contain them. Each part of the patient has its own random
    stream, so that a change in one does not affect the others. `contrast` is as in :meth:`Attenuation.draw`. With
    `cysts`, only the cysts of the label map are painted; without, some unlabelled cysts are added.
    """
    tissue = Attenuation.draw(np.random.default_rng([seed, 10]), contrast)
    model = grid.resampled(MODEL_PITCH_MM)
    kidneys = Parenchyma.draw(np.random.default_rng([seed, 11]), label, grid, model, points_mm, tissue, cysts)
    hu = _paint(model, body, landmarks, kidneys, tissue, seed)
    return _scan(hu, model, label, grid, kidneys, tissue, seed)


def _paint(
    model: Grid, body: Torso, landmarks: Landmarks, kidneys: Parenchyma, tissue: Attenuation, seed: int
) -> Field:
    """Paint the patient without kidneys and noise, float32 HU on the model grid."""
    rng = np.random.default_rng([seed, 12])
    texture = Texture(rng, 5.0).sample(model)
    texture *= np.float32(0.75)
    texture += np.float32(0.65) * Texture(rng, 17.0).sample(model)
    hu = np.full(model.shape, _AIR_HU, np.float32)
    room = body.paint(hu, model, tissue, texture)
    viscera = draw_bowel(np.random.default_rng([seed, 13]), body, tissue)
    viscera += draw_upper_abdomen(np.random.default_rng([seed, 16]), body, landmarks, tissue)
    for organ in viscera:
        organ.paint(hu, model, texture, room)
    near, local = room[kidneys.box], texture[kidneys.box]
    fat = tissue.fat + np.float32(0.8 * tissue.texture) * local
    blend(hu[kidneys.box], kidneys.capsule * inside(-near, model.spacing_mm[0]), fat)
    body.paint_back(hu, model, tissue, texture)
    body.paint_spine(hu, model, tissue, texture)
    for organ in draw_vessels(np.random.default_rng([seed, 14]), body, landmarks, tissue):
        organ.paint(hu, model, texture, None)
    blend(hu[kidneys.box], kidneys.sinus, tissue.urine)
    _paint_table(hu, model, body)
    return hu


def _paint_table(hu: Field, model: Grid, body: Torso) -> None:
    """Paint a curved couch under the back: a thin bright shell around foam."""
    _, y, x = model.axes()
    top = body.centre_y_mm + body.half_depth_mm + 6 - 26 * np.clip((x / 220) ** 2, 0, 2)
    inner = np.maximum(np.abs(y - top - 14) - 12, np.abs(x) - 215)
    blend(hu, inside(inner, model.spacing_mm[0]), np.maximum(hu, -880.0))
    shell = np.maximum(np.abs(np.abs(y - top - 14) - 12) - 1.0, np.abs(x) - 215)
    blend(hu, inside(shell, model.spacing_mm[0]), np.maximum(hu, -250.0))


def _scan(
    hu: Field,
    model: Grid,
    label: NDArray[np.uint8],
    grid: Grid,
    kidneys: Parenchyma,
    tissue: Attenuation,
    seed: int,
) -> NDArray[np.int16]:
    taps = max(1, round(grid.spacing_mm[0] / 1.6))
    to_grid = [interpolation(model, grid, a, taps if a == 0 else 1) for a in range(3)]
    ends = [o + n * MODEL_PITCH_MM for o, n in zip(kidneys.grid.origin_mm, kidneys.grid.shape, strict=True)]
    box = grid.box(kidneys.grid.origin_mm, ends)
    if box is None:
        raise ValueError("the kidneys are outside the field of view")
    to_inner = [interpolation(kidneys.grid, grid.within(box), a) for a in range(3)]
    voxels = np.empty(grid.shape, np.int16)
    for first in range(0, grid.shape[0], _SLAB):
        last = min(first + _SLAB, grid.shape[0])
        slab = transport(hu, [to_grid[0][first:last], to_grid[1], to_grid[2]])
        low, top = max(first, box[0].start), min(last, box[0].stop)
        if low < top:
            rows = to_inner[0][low - box[0].start : top - box[0].start]
            part = label[max(low - 1, 0) : top + 1, box[1], box[2]]
            trim = slice(1 if low > 0 else 0, (1 if low > 0 else 0) + top - low)
            view = slab[low - first : top - first, box[1], box[2]]
            matrices = [rows, to_inner[1], to_inner[2]]
            share = _soften(part > 0, grid)[trim]
            if share.any():
                inner_hu = transport(kidneys.kidney_hu, matrices)
                masses = [(TUMOUR, kidneys.tumour_hu)]
                masses += [] if kidneys.cyst_hu is None else [(CYST, kidneys.cyst_hu)]
                for value, mass_hu in masses:
                    mass = _soften(part == value, grid)[trim]
                    # The mass's share refers to the labelled share, not to the voxel.
                    inner_hu += np.clip(mass / np.maximum(share, 1e-3), 0, 1) * (
                        transport(mass_hu, matrices) - inner_hu
                    )
                blend(view, share, inner_hu)
        _add_noise(slab, first, grid, tissue, seed)
        voxels[first:last] = np.rint(np.clip(slab, -1024, 3071)).astype(np.int16)
    return voxels


def _soften(mask: NDArray[np.bool_], grid: Grid) -> Field:
    """Blur a mask as the scanner does: about 0.8 mm in the plane, and slightly across slices."""
    share = mask.astype(np.float32)
    across = 0.12 if grid.spacing_mm[0] > 1.5 else 0.22
    for axis, weight in ((0, across), (1, None), (2, None)):
        side = weight if weight is not None else float(np.clip(0.17 / grid.spacing_mm[axis], 0.05, 0.28))
        result = (1 - 2 * side) * share
        edge = [slice(None)] * 3
        for step in (-1, 1):
            moved = np.roll(share, step, axis)
            edge[axis] = slice(-1, None) if step < 0 else slice(0, 1)
            moved[tuple(edge)] = share[tuple(edge)]
            result += side * moved
        share = result
    return share


def _add_noise(slab: Field, first: int, grid: Grid, tissue: Attenuation, seed: int) -> None:
    """Add noise with some correlation in all directions, and faint horizontal streaks."""
    depth, height, width = slab.shape
    joint = 0.6 if grid.spacing_mm[0] < 1.5 else 0.2  # share of the next slice's noise
    side = float(np.clip(0.2 / grid.spacing_mm[1], 0.04, 0.27))
    gain = tissue.noise / np.sqrt(1 + joint**2) / ((1 - 2 * side) ** 2 + 2 * side**2)
    following = _grain(seed, first, (height, width))
    for k in range(depth):
        current, following = following, _grain(seed, first + k + 1, (height, width))
        noise = current[0] + np.float32(joint) * following[0]
        noise = _smooth(_smooth(noise, side, 0), side, 1)
        noise *= np.float32(gain)
        noise += (np.float32(0.16 * tissue.noise) * current[1])[:, None]
        slab[k] += noise


def _grain(seed: int, index: int, shape: tuple[int, int]) -> tuple[Field, Field]:
    """Return white noise for one slice and for its rows, independent of the grouping of slices."""
    rng = np.random.default_rng([seed, 15, index])
    return rng.standard_normal(shape, np.float32), rng.standard_normal(shape[0], np.float32)


def _smooth(image: Field, side: float, axis: int) -> Field:
    result = np.float32(1 - 2 * side) * image
    near, far = (slice(None, -1), slice(1, None))
    if axis == 0:
        result[far] += np.float32(side) * image[near]
        result[near] += np.float32(side) * image[far]
    else:
        result[:, far] += np.float32(side) * image[:, near]
        result[:, near] += np.float32(side) * image[:, far]
    return result
