"""Draw the abdominal organs and vessels in patient coordinates, and paint them on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .patient import Attenuation, Landmarks
from .patient_grid import Field, Grid
from .shapes import Capsule, Ellipsoid, Solid, Waves, blend, inside, rotation, tube
from .torso import Torso


@dataclass(frozen=True)
class Organ:
    """Hold solids of one tissue; with `wall_mm` they are hollow, with gas in front of `gas_y_mm`."""

    solids: tuple[Solid, ...]
    hu: float
    texture: float = 8.0
    wall_mm: float | None = None
    content_hu: float = 10.0
    content_texture: float = 5.0
    gas_y_mm: float = -1e6

    def paint(self, hu: Field, grid: Grid, texture: Field, room: Field | None) -> None:
        """Paint the voxels with a positive `room` (depth in mm), or all voxels without it.

        Walls are painted before contents, so that a chain of solids has one lumen.
        """
        pitch = grid.spacing_mm[0]
        layers = [(0.0, self.hu, self.texture)]
        if self.wall_mm is not None:
            layers.append((self.wall_mm, self.content_hu, self.content_texture))
        for inset, mean, spread in layers:
            for solid in self.solids:
                box = grid.box(*solid.bounds(pitch))
                if box is None:
                    continue
                axes = grid.axes(box)
                distance = solid.distance(*axes) + np.float32(inset)
                if room is not None:
                    distance = np.maximum(distance, -room[box])
                values = mean + np.float32(spread) * texture[box]
                if inset:
                    blend(values, inside(axes[1] - self.gas_y_mm, pitch), -920.0)
                blend(hu[box], inside(distance, pitch), values)


def draw_vessels(rng: np.random.Generator, body: Torso, kidneys: Landmarks, tissue: Attenuation) -> list[Organ]:
    """Draw aorta, vena cava, their iliac branches and the renal vessels, behind everything else."""
    front = body.spine_y_mm - 18
    fork = rng.uniform(75, 105)
    organs = []
    for hu, x, y, radius in (
        (tissue.vein, rng.uniform(-26, -18), front - 5, rng.uniform(10.5, 13)),
        (tissue.aorta, rng.uniform(4, 12), front - 10, rng.uniform(8.5, 11.5)),
    ):
        bend = rng.normal(0, 3, (5, 2))
        heights = np.linspace(-300, fork, 5)
        trunk = np.column_stack([heights, y + bend[:, 0], x + bend[:, 1]])
        solids = list(tube(trunk, np.full(5, radius)))
        end = trunk[-1]
        for side in (-1, 1):
            branch = np.array([end, end + (45, 8, side * 30), end + (130, 20, side * 62)])
            solids += tube(branch, np.array([radius * 0.75, radius * 0.6, radius * 0.5]))
        for kidney in (kidneys.right_mm, kidneys.left_mm):
            hilum = np.array(kidney) * (1, 1, 0.72)
            start = np.array([hilum[0] - rng.uniform(0, 15), y, x])
            middle = (start + hilum) / 2 + (0, -6, 0)
            thick = 3.2 if hu == tissue.aorta else 5.5
            solids += tube(np.array([start, middle, hilum]), np.array([thick, thick, thick * 0.7]))
        organs.append(Organ(tuple(solids), hu, texture=4))
    return organs


def draw_upper_abdomen(rng: np.random.Generator, body: Torso, kidneys: Landmarks, tissue: Attenuation) -> list[Organ]:
    """Draw stomach, pancreas, liver, gallbladder, spleen and the lower heart, in painting order."""
    width, depth = body.half_width_mm, body.half_depth_mm
    front = body.centre_y_mm
    top = body.diaphragm_mm[0]
    length = rng.uniform(0.9, 1.15)
    centre = (top + 78 * length, front - 0.02 * depth, -0.42 * width)
    liver = (
        Ellipsoid(
            centre,
            (86 * length, 0.76 * depth, 0.47 * width),
            rotation(rng.uniform(-10, 10), rng.uniform(8, 24), rng.uniform(-8, 8)),
            Waves.draw(rng, 6, 110),
        ),
        Ellipsoid(
            (top + 52, front - 0.38 * depth, rng.uniform(-5, 15)),
            (42 * length, 0.32 * depth, rng.uniform(0.38, 0.55) * width),
            rotation(about_y=rng.uniform(8, 22)),
            Waves.draw(rng, 4, 80),
        ),
    )
    trunk = (centre[0], centre[1], centre[2] + 40)
    branches: list[Capsule] = []
    for _ in range(12):
        start = np.asarray(trunk) + rng.uniform(-30, 30, 3)
        path = [start, start + rng.normal(0, 22, 3), start + rng.normal(0, 42, 3)]
        branches += tube(np.array(path), np.array([3.5, 2.5, 1.2]))
    spleen_at = (kidneys.left_mm[0] - rng.uniform(55, 85), front + 0.38 * depth, 0.60 * width)
    spleen = Ellipsoid(
        spleen_at,
        (rng.uniform(46, 64), rng.uniform(34, 46), rng.uniform(24, 34)),
        rotation(rng.uniform(-45, -15), 0, rng.uniform(-20, 10)),
        Waves.draw(rng, 3, 60),
    )
    stomach_points = np.array(
        [
            (top + 25, front + 0.05 * depth, 0.42 * width),
            (top + 70, front - 0.30 * depth, 0.45 * width),
            (top + 100, front - 0.50 * depth, 0.22 * width),
            (top + 98, front - 0.46 * depth, -0.08 * width),
        ]
    ) + rng.normal(0, 6, (4, 3))
    food, food_texture = (
        (rng.uniform(0, 25), 4.0),
        (rng.uniform(20, 60), 30.0),
        (rng.uniform(150, 280), 15.0),
    )[rng.choice(3, p=(0.5, 0.3, 0.2))]
    stomach = Organ(
        tube(stomach_points, rng.uniform(0.8, 1.15) * np.array([36, 34, 27, 15])),
        tissue.bowel_wall,
        wall_mm=rng.uniform(4, 7),
        content_hu=food,
        content_texture=food_texture,
        gas_y_mm=front - rng.uniform(0.35, 0.7) * depth,
    )
    head = np.array([rng.uniform(-25, -5), body.spine_y_mm - 42, -28.0])
    pancreas_points = np.array([head, head + (-12, -14, 35), head + (-28, -4, 70), head + (-42, 22, 105)])
    pancreas = Organ(
        tube(pancreas_points + rng.normal(0, 3, (4, 3)), np.array([15, 10, 11, 9.0])),
        tissue.pancreas,
        texture=16,
    )
    heart = Ellipsoid((top - 42, front - 0.35 * depth, 22), (45, 48, 62), rotation(about_y=15))
    gallbladder = Organ(
        (Ellipsoid((top + 130 * length, front - 0.30 * depth, -0.30 * width), (26, 14, 14)),),
        60,
        wall_mm=2,
        content_hu=rng.uniform(2, 20),
    )
    portal = tube(
        np.array([(20.0, head[1] - 4, 2.0), (-25.0, head[1], 0.0), (trunk[0], trunk[1] + 5, trunk[2] + 12)]),
        np.array([6.5, 7.5, 6.0]),
    )
    spread = tissue.texture
    return [
        stomach,
        pancreas,
        Organ(liver, tissue.liver, texture=spread),
        Organ(tuple(branches), tissue.vein, texture=3),
        gallbladder,
        Organ(portal, tissue.vein, texture=3),
        Organ((spleen,), tissue.spleen, texture=spread),
        Organ((heart,), tissue.aorta - 15, texture=20),
    ]
