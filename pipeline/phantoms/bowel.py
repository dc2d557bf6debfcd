"""Draw the bowel: small bowel loops between mesenteric vessels, framed by the colon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .organs import Organ
from .patient import Attenuation
from .shapes import Capsule, tube
from .torso import Torso


def draw_bowel(rng: np.random.Generator, body: Torso, tissue: Attenuation) -> list[Organ]:
    """Draw mesenteric vessels, small bowel loops, and a colon that frames them beside the kidneys."""
    width, depth, front = body.half_width_mm, body.half_depth_mm, body.centre_y_mm
    inner = 1 - (body.fat_mm + body.wall_mm) / width
    organs = []
    twigs: list[Capsule] = []
    for _ in range(30):
        start = np.array([rng.uniform(-40, 150), rng.uniform(-0.55, 0.0) * depth + front, rng.normal(0, 35)])
        path = np.array([start, start + rng.normal(0, 20, 3), start + rng.normal(0, 38, 3)])
        twigs += tube(path, np.array([3.2, 2.2, 1.4]))
    organs.append(Organ(tuple(twigs), tissue.vein, texture=3))
    for _ in range(rng.integers(70, 100)):
        middle = np.array(
            [
                rng.uniform(-45, 220),
                front + rng.uniform(-0.75, 0.12) * depth,
                rng.uniform(-0.72, 0.72) * width * inner,
            ]
        )
        organs.append(_loop(rng, middle, rng.uniform(9, 15), tissue))
    for side in (-1, 1):
        x = side * 0.80 * width * inner
        y = front + 0.24 * depth
        heights = np.array([-25 if side < 0 else -55, 15, 60, 110, 160])
        points = np.column_stack([heights, np.full(5, y), np.full(5, x)]) + rng.normal(0, 8, (5, 3))
        organs.append(_colon(rng, points, tissue))
    sag = rng.uniform(0, 45)
    across = np.linspace(-0.75, 0.75, 6) * width * inner
    heights = -35 + sag * (1 - (across / width) ** 2)
    points = np.column_stack([heights, np.full(6, front - 0.55 * depth), across])
    points[[0, -1], 1] = front - 0.1 * depth
    organs.append(_colon(rng, points + rng.normal(0, 8, (6, 3)), tissue))
    return organs


def _loop(rng: np.random.Generator, middle: NDArray[np.float64], radius: float, tissue: Attenuation) -> Organ:
    """Draw a few centimetres of small bowel, collapsed or filled with fluid, positive contrast or gas."""
    steps = rng.normal(0, 1, (4, 3)) * (14, 14, 24)
    points = middle + np.cumsum(steps, 0) - steps.sum(0) / 2
    solids = tube(points, radius * rng.uniform(0.75, 1.15, 4))
    kind = rng.choice(4, p=(0.38, 0.36, 0.16, 0.1))
    if kind == 0:
        return Organ(solids, tissue.bowel_wall, texture=22)
    content = (0.0, rng.uniform(0, 35), rng.uniform(110, 260), rng.uniform(0, 30))[kind]
    gas = float(points[:, 1].mean() + rng.uniform(-4, 4)) if kind == 3 else -1e6
    return Organ(
        solids,
        tissue.bowel_wall + 15,
        wall_mm=rng.uniform(2, 3.5),
        content_hu=content,
        content_texture=8,
        gas_y_mm=gas,
    )


def _colon(rng: np.random.Generator, points: NDArray[np.float64], tissue: Attenuation) -> Organ:
    """Draw a wide tube with stool, sometimes with gas in front of it."""
    radii = rng.uniform(15, 24, len(points))
    gas = float(points[:, 1].mean() + rng.uniform(-14, 6)) if rng.uniform() < 0.6 else -1e6
    opacified = rng.uniform() < 0.15  # oral contrast of the day before
    return Organ(
        tube(points, radii),
        tissue.bowel_wall,
        wall_mm=rng.uniform(2, 4),
        content_hu=rng.uniform(140, 240) if opacified else rng.uniform(15, 80),
        content_texture=45,
        gas_y_mm=gas,
    )
