"""Draw synthetic kidneys, tumours and cysts in patient coordinates, and label them on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .patient import Landmarks
from .patient_grid import Field, Grid
from .shapes import Ellipsoid, Point, Waves, rotation

KIDNEY, TUMOUR, CYST = 1, 2, 3
#: Numbers of cysts and their probabilities, as in 40 label maps of KiTS23. 15 of these maps lack cysts, and five have
#: 5 or more (up to 19, connected through faces, edges or corners).
CYST_COUNTS = ((0, 1, 2, 3, 4, 5, 7, 10, 15), (0.37, 0.31, 0.08, 0.03, 0.05, 0.05, 0.05, 0.03, 0.03))
#: Volumes of these cysts: median (mL), standard deviation of the logarithm, smallest and largest (mL).
CYST_ML = (0.6, 2.1, 0.03, 83.0)


@dataclass(frozen=True)
class Kidney:
    """Describe a kidney as an ellipsoid bent around its hilum, without the sinus. `side` is -1 right, 1 left."""

    side: int
    centre_mm: Point
    radii_mm: Point
    tilt: tuple[float, float, float]
    bend_mm: float
    hilum: Point  # radii of the sinus, as shares of the kidney's
    waves: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator, side: int, centre_mm: Point) -> Kidney:
        """Draw a kidney of about 115 x 52 x 58 mm; the upper pole leans inwards and back."""
        radii = (rng.uniform(52, 62), rng.uniform(24, 29), rng.uniform(26, 31))
        return cls(
            side=side,
            centre_mm=centre_mm,
            radii_mm=radii,
            tilt=(side * rng.uniform(20, 45), side * rng.uniform(6, 18), rng.uniform(4, 16)),
            bend_mm=rng.uniform(4, 12),
            hilum=(rng.uniform(0.25, 0.4), rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.75)),
            waves=Waves.draw(rng, rng.uniform(0.8, 2.2), 38),
        )

    def body(self) -> Ellipsoid:
        """Return the outline without bend and sinus."""
        return Ellipsoid(self.centre_mm, self.radii_mm, rotation(*self.tilt), self.waves)

    def distance(self, z: Field, y: Field, x: Field) -> Field:
        """Return the signed distance of the parenchyma, in mm."""
        along = (z - self.centre_mm[0]) / self.radii_mm[0]
        bent = x + np.float32(self.side * self.bend_mm) * (along**2 - np.float32(0.3))
        body = self.body()
        turn = rotation(*self.tilt)
        inwards = -self.side * self.radii_mm[2] * 0.85
        at = np.asarray(self.centre_mm) + turn[2] * inwards
        radii = np.asarray(self.radii_mm) * self.hilum
        sinus = Ellipsoid(tuple(at.tolist()), tuple(radii.tolist()), turn)
        result: Field = np.maximum(body.distance(z, y, bent), -sinus.distance(z, y, bent))
        return result

    def scaled(self, factor: float) -> Kidney:
        """Return the kidney with its radii multiplied."""
        z, y, x = (r * factor for r in self.radii_mm)
        return replace(self, radii_mm=(z, y, x))


@dataclass(frozen=True)
class Tumour:
    """Describe a lobulated mass: a ball with smaller balls on it."""

    lobes: tuple[Ellipsoid, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, kidney: Kidney, volume_ml: float) -> Tumour:
        """Draw a tumour on the kidney's surface: half inside if small, mostly outside if large."""
        radius = float((volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)) * 0.92
        direction = rng.standard_normal(3)
        # The spine and the back leave no room to grow.
        direction[2] = kidney.side * max(kidney.side * direction[2], -0.25 if radius < 18 else 0.15)
        direction[1] = min(direction[1], 0.3 if radius > 20 else 0.8)
        direction /= np.linalg.norm(direction)
        surface = direction * np.asarray(kidney.radii_mm)
        outward = rng.uniform(-0.45, 0.45) if radius < 25 else rng.uniform(0.1, 0.6)
        surface = np.asarray(kidney.centre_mm) + rotation(*kidney.tilt).T @ surface
        centre = surface + direction * radius * outward
        # A body is less deep than wide, so a large mass spreads sideways and down.
        shape = np.exp(rng.normal(0, 0.10, 3)) * ((1.08, 0.88, 1.05) if radius > 30 else (1, 1, 1))
        waves = Waves.draw(rng, min(0.09 * radius, 3.5), 1.3 * radius)
        lobes = [_ellipsoid(centre, radius * shape, waves)]
        for _ in range(rng.integers(0, 4)):
            away = rng.standard_normal(3)
            away *= radius * rng.uniform(0.6, 0.85) / np.linalg.norm(away)
            lobes.append(_ellipsoid(centre + away, np.full(3, radius * rng.uniform(0.4, 0.6)), waves))
        return cls(tuple(lobes))

    def distance(self, z: Field, y: Field, x: Field) -> Field:
        """Return the signed distance of the union of the lobes, in mm."""
        result = self.lobes[0].distance(z, y, x)
        for lobe in self.lobes[1:]:
            result = np.minimum(result, lobe.distance(z, y, x))
        return result


def draw_cysts(rng: np.random.Generator, kidneys: Sequence[Kidney]) -> tuple[Ellipsoid, ...]:
    """Draw round cysts of either kidney; three tenths of their surface are outside the kidney.

    Their number follows :data:`CYST_COUNTS`, and their volumes are log-normal (:data:`CYST_ML`).
    """
    median, spread, least, most = CYST_ML
    cysts = []
    for _ in range(int(rng.choice(CYST_COUNTS[0], p=CYST_COUNTS[1]))):
        kidney = kidneys[int(rng.integers(0, 2))]
        volume_ml = float(np.clip(median * np.exp(rng.normal(0, spread)), least, most))
        radius = float((volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))
        direction = rng.standard_normal(3)
        direction[2] = kidney.side * max(kidney.side * direction[2], -0.25)  # the sinus and the spine leave no room
        direction /= np.linalg.norm(direction)
        surface = np.asarray(kidney.centre_mm) + rotation(*kidney.tilt).T @ (direction * np.asarray(kidney.radii_mm))
        centre = surface + direction * radius * rng.uniform(-1.1, 0.5)
        shape = radius * np.exp(rng.normal(0, 0.06, 3))
        cysts.append(_ellipsoid(centre, shape, Waves.draw(rng, min(0.03 * radius, 1.0), 2 * radius + 4)))
    return tuple(cysts)


@dataclass(frozen=True)
class Kidneys:
    """Hold both kidneys, their tumours and their cysts."""

    kidneys: tuple[Kidney, Kidney]
    tumours: tuple[Tumour, ...]
    landmarks: Landmarks
    cysts: tuple[Ellipsoid, ...] = ()

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Kidneys:
        """Draw kidneys of 290 to 700 mL together (log-normal, median 420), with tumours.

        There are 1, 2 or 3 tumours with probability 0.8, 0.15 and 0.05. Each has 4 to 350 mL (log-normal, median 40).
        """
        apart, lower = rng.uniform(60, 72), rng.uniform(0, 9)
        right: Point = (lower, rng.uniform(-4, 4), -apart)
        left: Point = (-lower, rng.uniform(-4, 4), apart * rng.uniform(0.95, 1.05))
        pair = [Kidney.draw(rng, -1, right), Kidney.draw(rng, 1, left)]
        volume_ml = float(np.clip(420 * np.exp(rng.normal(0, 0.22)), 290, 700))
        count = int(rng.choice((1, 2, 3), p=(0.8, 0.15, 0.05)))
        sizes = np.clip(40 * np.exp(rng.normal(0, 0.9, count)), 4, 350)
        sides = rng.integers(0, 2, count)
        stream = rng.integers(0, 2**32, count)
        tumours: tuple[Tumour, ...] = ()
        for _ in range(2):
            tumours = tuple(
                Tumour.draw(np.random.default_rng(int(s)), pair[side], float(v))
                for s, side, v in zip(stream, sides, sizes, strict=True)
            )
            drawn = cls((pair[0], pair[1]), tumours, Landmarks(right, left))
            factor = (volume_ml / drawn.volume_ml(KIDNEY)) ** (1 / 3)
            pair = [kidney.scaled(float(np.clip(factor, 0.8, 1.3))) for kidney in pair]
        return cls((pair[0], pair[1]), tumours, Landmarks(right, left))

    def with_cysts(self, rng: np.random.Generator) -> Kidneys:
        """Return the same kidneys and tumours with cysts, see :func:`draw_cysts`."""
        return replace(self, cysts=draw_cysts(rng, self.kidneys))

    def volume_ml(self, value: int) -> float:
        """Measure the volume of a label on a 2.5 mm grid."""
        grid = Grid((-200, -150, -240), (2.5, 2.5, 2.5), (160, 110, 192))
        return float((self.label(grid) == value).sum() * 2.5**3 / 1000)

    def label(self, grid: Grid) -> NDArray[np.uint8]:
        """Return the label map (D, H, W): 0 background and sinus, 1 kidney, 2 tumour, 3 cyst.

        A tumour covers a cyst, and a cyst covers the kidney, as KiTS23 merges its annotations.
        """
        label = np.zeros(grid.shape, np.uint8)
        for kidney in self.kidneys:
            low, high = kidney.body().bounds(kidney.bend_mm)
            box = grid.box(low, high)
            if box is not None:
                label[box][kidney.distance(*grid.axes(box)) < 0] = KIDNEY
        for cyst in self.cysts:
            box = grid.box(*cyst.bounds(1.0))
            if box is not None:
                label[box][cyst.distance(*grid.axes(box)) < 0] = CYST
        for tumour in self.tumours:
            corners = [lobe.bounds(1.0) for lobe in tumour.lobes]
            box = grid.box(np.min([c[0] for c in corners], 0), np.max([c[1] for c in corners], 0))
            if box is not None:
                label[box][tumour.distance(*grid.axes(box)) < 0] = TUMOUR
        return label

    def points_mm(self) -> NDArray[np.float64]:
        """Return the labelled points of a 5 mm grid in mm, (n, 3)."""
        grid = Grid((-200, -150, -240), (5.0, 5.0, 5.0), (80, 55, 96))
        points: NDArray[np.float64] = np.argwhere(self.label(grid) > 0) * 5.0 + np.asarray(grid.origin_mm)
        return points


def _ellipsoid(centre: NDArray[np.float64], radii: NDArray[np.float64], waves: Waves) -> Ellipsoid:
    z, y, x = centre.tolist()
    rz, ry, rx = radii.tolist()
    return Ellipsoid((z, y, x), (rz, ry, rx), None, waves)
