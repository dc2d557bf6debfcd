"""Draw skin, fat, the muscular wall with its ribs, lungs and spine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .patient import Attenuation
from .patient_grid import Field, Grid
from .shapes import Ellipsoid, blend, inside


@dataclass(frozen=True)
class Torso:
    """Describe the trunk: a bumpy superellipse in each axial plane, layered by depth under the skin (in mm)."""

    centre_y_mm: float
    half_depth_mm: float
    half_width_mm: float
    fat_mm: float
    wall_mm: float
    bumps: NDArray[np.float64]  # (order, amplitude, phase) of the outline in polar angle
    rib_phase: float
    disc_phase: float
    diaphragm_mm: tuple[float, float]  # height of the right and the left dome
    spine_y_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Torso:
        """Draw a body of 20 to 30 cm by 30 to 40 cm; its back is 80 to 105 mm behind the kidneys' centre."""
        size = rng.uniform(0, 1)
        half_depth = 102 + 42 * size + rng.uniform(-5, 8)
        orders = np.arange(1, 6, dtype=np.float64)
        bumps = np.stack([orders, rng.normal(0, 0.012, 5) / np.sqrt(orders), rng.uniform(0, 2 * np.pi, 5)], 1)
        dome = rng.uniform(-135, -105)
        return cls(
            centre_y_mm=78 + 22 * size - half_depth,
            half_depth_mm=half_depth,
            half_width_mm=half_depth * rng.uniform(1.32, 1.45),
            fat_mm=6 + 24 * size**1.3 * rng.uniform(0.6, 1.2),
            wall_mm=rng.uniform(11, 15),
            bumps=bumps,
            rib_phase=rng.uniform(0, 1),
            disc_phase=rng.uniform(0, 1),
            diaphragm_mm=(dome, dome + rng.uniform(4, 16)),
            spine_y_mm=rng.uniform(-20, -8),
        )

    def around(self, points_mm: NDArray[np.float64]) -> Torso:
        """Enlarge the torso until its cavity contains all `points_mm`, 5 mm off its wall."""
        torso = self
        for _ in range(30):
            radius, angle = torso._polar(points_mm[:, 1], points_mm[:, 2])
            depth = torso._outline(angle) * 0.96 - radius - torso._fat(angle) - torso._wall(angle)
            if depth.min() > 5:
                break
            grown = {
                "half_depth_mm": torso.half_depth_mm * 1.03,
                "half_width_mm": torso.half_width_mm * 1.03,
            }
            torso = Torso(**{**torso.__dict__, **grown})
        return torso

    def depth(self, grid: Grid) -> tuple[Field, Field]:
        """Return the depths of all voxels under the skin and inside the muscular wall, in mm."""
        z, y, x = grid.axes()
        radius, angle = self._polar(y, x)
        swell = 1 + 0.03 * np.sin(z / 70) - 0.01 * np.cos(z / 33)
        skin = (swell.astype(np.float32) * self._outline(angle)) - radius
        cavity = skin - (self._fat(angle) + self._wall(angle))
        return skin, cavity

    def lung_floor(self, grid: Grid) -> Field:
        """Return the height of the diaphragm, shape (1, H, W); the lungs are above (smaller z)."""
        _, y, x = grid.axes()
        middle = self.centre_y_mm + 0.05 * self.half_depth_mm
        width, depth = self.half_width_mm * 0.45, self.half_depth_mm * 0.72
        floors = []
        for side, dome in ((-1, self.diaphragm_mm[0]), (1, self.diaphragm_mm[1])):
            across = ((x - side * width * 0.95) / width) ** 2 + ((y - middle) / depth) ** 2
            floors.append(dome + np.minimum(65 * across**1.5, 75))
        both: Field = np.where(x < 0, floors[0], floors[1]).astype(np.float32)
        # The mediastinum contains no lung; it is wider in front, around the heart.
        reach = 24 + 22 * np.clip((middle - y) / depth, 0, 1)
        both -= np.float32(5) * np.clip(reach + 6 - np.abs(x - 8), 0, 40).astype(np.float32)
        return both

    def paint(self, hu: Field, grid: Grid, tissue: Attenuation, texture: Field) -> Field:
        """Paint the trunk on a canvas of air; return the depth inside the cavity below the lungs, in mm."""
        pitch = grid.spacing_mm[0]
        skin, cavity = self.depth(grid)
        fat = self._fat(self._polar(*grid.axes()[1:])[1])
        blend(hu, inside(-skin, pitch), 20.0)
        blend(hu, inside(2.5 - skin, pitch), tissue.fat)
        blend(hu, inside(fat - skin, pitch), tissue.muscle)
        blend(hu, inside(-cavity, pitch), tissue.fat + 6)
        hu += inside(2.5 - skin, pitch) * texture * np.float32(0.9 * tissue.texture)
        self._paint_ribs(hu, grid, tissue, fat - skin)
        floor = self.lung_floor(grid)
        rows = int((grid.axis(0) < floor.max() + pitch).sum())
        z = grid.axes()[0]
        if rows:
            lung = inside(np.maximum(2 - cavity[:rows], z[:rows] - floor), pitch)
            blend(hu[:rows], lung, -840 + 35 * texture[:rows])
        return np.minimum(cavity, z - floor - 3)

    def _paint_ribs(self, hu: Field, grid: Grid, tissue: Attenuation, under_fat: Field) -> None:
        z, y, x = grid.axes()
        middle = self.wall_mm * 0.55
        zs, ys, xs = np.nonzero(np.abs(under_fat + middle) < 6)
        if not len(zs):
            return
        height, back, side = z[zs, 0, 0], y[0, ys, 0], x[0, 0, xs]
        angle = np.abs(np.arctan2(side, back - self.centre_y_mm))
        around = angle * (self.half_depth_mm + self.half_width_mm) / 2
        # Ribs leave the spine and slope down; the twelfth (number 0) is short.
        pitch = 27.0
        turn = (height - 0.38 * around) / pitch + self.rib_phase
        number = -np.floor(turn) - 1
        across = (turn - np.floor(turn) - 0.5) * pitch
        distance = np.sqrt(across**2 * 0.55 + (under_fat[zs, ys, xs] + middle) ** 2) - 4.2
        there = (number >= 0) & (around > 25) & (around < np.minimum(120 + 60 * number, 300))
        distance = np.where(there, distance, 9)
        values = hu[zs, ys, xs]
        blend(values, inside(distance, grid.spacing_mm[0]), tissue.cortical_bone * 0.9)
        blend(values, inside(distance + 2.2, grid.spacing_mm[0]), tissue.marrow)
        hu[zs, ys, xs] = values

    def paint_spine(self, hu: Field, grid: Grid, tissue: Attenuation, texture: Field) -> None:
        """Paint vertebral bodies, discs, canal and processes."""
        front = self.spine_y_mm
        box = grid.box((-1e6, front - 30, -50), (1e6, front + 85, 50))
        if box is None:
            return
        pitch = grid.spacing_mm[0]
        z, y, x = grid.axes(box)
        view, local = hu[box], texture[box]
        turn = z / 36 + self.disc_phase
        level = (turn - np.floor(turn) - 0.5) * 36  # mm from the middle of the vertebra
        height = np.abs(level) - 14
        waist = 1 - 0.10 * np.clip(1 - np.abs(level) / 14, 0, 1)
        body = (np.sqrt((x / 25) ** 2 + ((y - front) / 18) ** 2) / waist - 1) * 19
        bone = np.maximum(body, height)
        spinous = np.maximum(np.abs(x) - 3.5, np.maximum(np.abs(y - front - 48) - 20, np.abs(level - 6) - 10))
        arch = np.abs(np.sqrt((x / 1.25) ** 2 + (y - front - 26) ** 2) - 14) - 3.5
        arch = np.maximum(arch, np.abs(level + 2) - 11)
        transverse = np.sqrt((y - front - 27) ** 2 + level**2) - 4.5
        transverse = np.maximum(transverse, np.maximum(np.abs(x) - 44, 12 - np.abs(x)))
        blend(view, inside(body, pitch), 85.0)
        processes = np.minimum(np.minimum(spinous, arch), transverse)
        every = np.minimum(bone, processes)
        blend(view, inside(every, pitch), tissue.cortical_bone)
        blend(view, inside(every + 2.4, pitch), tissue.marrow + 28 * local)
        canal = (np.sqrt((x / 12) ** 2 + ((y - front - 26) / 10) ** 2) - 1) * 11
        blend(view, inside(canal, pitch), 28.0)

    def paint_back(self, hu: Field, grid: Grid, tissue: Attenuation, texture: Field) -> None:
        """Paint psoas, the muscles along the spine, and quadratus lumborum on both sides."""
        y0 = self.spine_y_mm
        for side in (-1, 1):
            bundles = (
                Ellipsoid((90, y0 + 6, side * 44), (112, 19, 19)),
                Ellipsoid((0, y0 + 54, side * 34), (900, 21, 29)),
                Ellipsoid((45, y0 + 44, side * 68), (80, 9, 24)),
            )
            for bundle in bundles:
                box = grid.box(*bundle.bounds(5))
                if box is not None:
                    share = inside(bundle.distance(*grid.axes(box)), grid.spacing_mm[0])
                    blend(hu[box], share, tissue.muscle + tissue.texture * texture[box])

    def _polar(self, y: Field, x: Field) -> tuple[Field, Field]:
        return np.hypot(y - self.centre_y_mm, x), np.arctan2(x, y - self.centre_y_mm)

    def _outline(self, angle: Field) -> Field:
        """Return the distance from centre to skin at a polar angle (0 is the back), in mm."""
        n = 2.35
        cosine = np.abs(np.cos(angle)) / self.half_depth_mm
        sine = np.abs(np.sin(angle)) / self.half_width_mm
        bumps = sum(a * np.cos(k * angle + p) for k, a, p in self.bumps.tolist())
        # The back has a furrow over the spine.
        furrow = 0.05 * np.exp(-((angle / 0.12) ** 2))
        result: Field = ((cosine**n + sine**n) ** (-1 / n) * (1 + bumps - furrow)).astype(np.float32)
        return result

    def _wall(self, angle: Field) -> Field:
        """Return the thickness of the muscular wall at a polar angle, in mm; the back is three times as thick."""
        result: Field = (self.wall_mm * (1 + 1.9 * np.exp(-((angle / 0.42) ** 2)))).astype(np.float32)
        return result

    def _fat(self, angle: Field) -> Field:
        """Return the thickness of skin and subcutaneous fat at a polar angle, in mm."""
        result: Field = (3 + self.fat_mm * (1 + 0.35 * np.cos(2 * angle + 0.4))).astype(np.float32)
        return result
