"""Make a phantom case: a CT of an abdomen with kidneys, tumours and cysts, and its label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .kidneys import CYST, TUMOUR, Kidneys
from .patient import find_landmarks
from .patient_grid import Grid
from .scanner import render
from .torso import Torso


@dataclass(frozen=True)
class Phantom:
    """Hold a case in KiTS19's layout: axes z, y, x run to the feet, the back and the patient's left (IPL)."""

    voxels: NDArray[np.int16]  # HU, (D, H, W)
    label: NDArray[np.uint8]  # 0 background, 1 kidney, 2 tumour, 3 cyst, (D, H, W)
    affine: NDArray[np.float64]  # (4, 4), voxel indices to mm in RAS


def make_phantom(
    seed: int,
    *,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    contrast: str = "enhanced",
    cysts: bool = False,
) -> Phantom:
    """Make a fully synthetic case.

    The patient depends on `seed` alone; `shape` (D, H, W) and `spacing_mm` only set the sampling. By default both are
    drawn as in KiTS19: 512 x 512 at 0.438-1.041 mm (median 0.78), slices 0.5-5 mm apart (5 mm in two of five
    cases) over 280-420 mm. `contrast` is `"enhanced"` or `"wide"`, as explained in
    :meth:`~kits_unet3d.pipeline.phantoms.patient.Attenuation.draw`. With `cysts` they are labelled 3, as in KiTS23;
    without, some kidneys have cysts that are labelled as kidney, as in KiTS19.
    """
    _check_seed(seed)
    rng = np.random.default_rng([seed, 0])
    kidneys = Kidneys.draw(np.random.default_rng([seed, 1]))
    if cysts:
        kidneys = kidneys.with_cysts(np.random.default_rng([seed, 4]))
    points = kidneys.points_mm()
    body = Torso.draw(np.random.default_rng([seed, 2])).around(points)
    spacing = draw_spacing(rng, body) if spacing_mm is None else _three_positive(spacing_mm, "spacing_mm")
    extent = rng.uniform(280, 420)
    if shape is None:
        size = (int(np.ceil(extent / spacing[0])), 512, 512)
    else:
        if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
            raise ValueError(f"shape must be 3 positive whole numbers, got {tuple(shape)}")
        size = (int(shape[0]), int(shape[1]), int(shape[2]))
    fields = [n * s for n, s in zip(size, spacing, strict=True)]
    centre = [_centre(fields[0], 15.0, 90.0), _centre(fields[1], body.centre_y_mm, 60.0), 0.0]
    origin = [c - (f - s) / 2 for c, f, s in zip(centre, fields, spacing, strict=True)]
    grid = Grid((origin[0], origin[1], origin[2]), spacing, size)
    label = kidneys.label(grid)
    voxels = render(label, grid, kidneys.landmarks, points, body, seed, contrast, cysts)
    return Phantom(voxels, label, ipl_affine(spacing))


def phantom_around(
    label: NDArray[np.integer],
    affine: NDArray[np.floating],
    seed: int,
    *,
    contrast: str = "enhanced",
    cysts: bool = False,
) -> Phantom:
    """Make a case with the kidneys, tumours and cysts of a given label map; keep grid, label and affine.

    `label` is (D, H, W) with values 0, 1, 2 in IPL order, as in KiTS19, and with `cysts` also 3; `affine` gives its
    spacing. `contrast` and `cysts` are as for :func:`make_phantom`.
    """
    _check_seed(seed)
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"affine must be 4 x 4, got shape {matrix.shape}")
    codes = "".join(str(c) for c in nib.aff2axcodes(matrix))
    if codes != "IPL":
        raise ValueError(f"the label map must be in IPL order as KiTS19's are, got {codes}")
    values = np.asarray(label)
    if values.ndim != 3:
        raise ValueError(f"label must have 3 dimensions (D, H, W), got shape {values.shape}")
    most = CYST if cysts else TUMOUR
    if values.size and (values.min() < 0 or values.max() > most or values.dtype.kind not in "iub"):
        known = ", ".join(map(str, range(most + 1)))
        way_out = "; label cysts with --cysts" if values.max() == CYST else ""
        raise ValueError(
            f"label must contain whole numbers {known}, got {values.dtype} from {values.min()} to {values.max()}"
            f"{way_out}"
        )
    mask = values.astype(np.uint8)
    spacing = _three_positive(np.linalg.norm(matrix[:3, :3], axis=0).tolist(), "the affine's spacing")
    landmarks, origin, points = find_landmarks(mask, spacing)
    body = Torso.draw(np.random.default_rng([seed, 2])).around(points)
    grid = Grid(origin, spacing, (mask.shape[0], mask.shape[1], mask.shape[2]))
    return Phantom(render(mask, grid, landmarks, points, body, seed, contrast, cysts), mask, matrix)


def ipl_affine(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the affine of KiTS19's images: IPL, origin 0."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = (-s for s in spacing_mm)
    affine[3, 3] = 1
    return affine


def draw_spacing(rng: np.random.Generator, body: Torso) -> tuple[float, float, float]:
    """Draw a spacing as in KiTS19; a wider patient gets a wider field, as in radiography."""
    kind = rng.choice(4, p=(0.41, 0.09, 0.42, 0.08))
    slices = (5.0, rng.uniform(3.5, 4.5), rng.uniform(1.0, 3.2), rng.uniform(0.5, 1.0))[kind]
    field = 2 * body.half_width_mm * rng.uniform(0.92, 1.32)
    in_plane = float(np.clip(field / 512, 0.438, 1.041))
    return round(float(slices), 2), round(in_plane, 4), round(in_plane, 4)


def _centre(field_mm: float, wanted_mm: float, kidneys_mm: float) -> float:
    """Return the centre of the field, moved to keep the kidneys (0 +- `kidneys_mm`) inside if possible."""
    slack = max(field_mm / 2 - kidneys_mm, 0.0)
    return float(np.clip(wanted_mm, -slack, slack))


def _three_positive(values: Sequence[float], name: str) -> tuple[float, float, float]:
    numbers = [float(v) for v in values]
    if len(numbers) != 3 or not all(np.isfinite(v) and v > 0 for v in numbers):
        raise ValueError(f"{name} must be 3 positive numbers, got {tuple(values)}")
    return numbers[0], numbers[1], numbers[2]


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
