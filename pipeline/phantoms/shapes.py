"""Define two solids by their signed distance in mm (negative inside), and paint them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .patient_grid import Field

Point = tuple[float, float, float]


def rotation(about_z: float = 0.0, about_y: float = 0.0, about_x: float = 0.0) -> NDArray[np.float64]:
    """Return the matrix that rotates (z, y, x) by three angles in degrees."""
    a, b, c = np.deg2rad([about_z, about_y, about_x])
    around_z = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    around_y = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    around_x = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    product: NDArray[np.float64] = around_z @ around_y @ around_x
    return product


@dataclass(frozen=True)
class Waves:
    """Describe surface bumps: `amplitude_mm` times a sum of sines with wave vectors (1/mm) and phases."""

    amplitude_mm: float
    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, amplitude_mm: float, length_mm: float, count: int = 3) -> Waves:
        """Draw `count` waves in random directions, with lengths U(0.7, 1.4) times `length_mm`."""
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = length_mm * rng.uniform(0.7, 1.4, (count, 1))
        phases = rng.uniform(0, 2 * np.pi, count)
        return cls(amplitude_mm / float(np.sqrt(count)), 2 * np.pi * directions / lengths, phases)

    def __call__(self, z: Field, y: Field, x: Field) -> Field:
        total: Field | np.float32 = np.float32(0)
        for (kz, ky, kx), phase in zip(self.vectors.tolist(), self.phases.tolist(), strict=True):
            total = total + np.sin(kz * z + ky * y + (kx * x + phase))
        result: Field = np.asarray(np.float32(self.amplitude_mm) * total)
        return result


@dataclass(frozen=True)
class Ellipsoid:
    """Describe an ellipsoid with `radii_mm` along its axes, rotated by `turn`, bumpy if it has `waves`."""

    centre_mm: Point
    radii_mm: Point
    turn: NDArray[np.float64] | None = None
    waves: Waves | None = None

    def bounds(self, margin_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return two corners around everything nearer than `margin_mm`."""
        turn = np.eye(3) if self.turn is None else self.turn
        reach = np.sqrt((turn**2).T @ np.square(self.radii_mm)) + margin_mm
        if self.waves is not None:
            reach = reach + self.waves.amplitude_mm * len(self.waves.phases)
        return np.asarray(self.centre_mm) - reach, np.asarray(self.centre_mm) + reach

    def distance(self, z: Field, y: Field, x: Field) -> Field:
        """Return the signed distance to first order: exact at the surface, approximate elsewhere."""
        dz, dy, dx = (a - np.float32(c) for a, c in zip((z, y, x), self.centre_mm, strict=True))
        if self.turn is None:
            local = [dz, dy, dx]
        else:
            local = [r[0] * dz + r[1] * dy + r[2] * dx for r in self.turn.astype(np.float32)]
        radii = np.asarray(self.radii_mm, np.float32)
        scaled = [a / r for a, r in zip(local, radii, strict=True)]
        # Both norms vanish at the centre; the small terms keep it inside.
        norm = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2 + np.float32(1e-6))
        steep = [(a / r) ** 2 for a, r in zip(scaled, radii, strict=True)]
        gradient = np.sqrt(steep[0] + steep[1] + steep[2] + np.float32(1e-6) / radii.min() ** 2)
        result: Field = (norm - 1) * norm / gradient
        return result if self.waves is None else result + self.waves(z, y, x)


@dataclass(frozen=True)
class Capsule:
    """Describe a round rod from `start_mm` to `end_mm` whose radius changes linearly."""

    start_mm: Point
    end_mm: Point
    radii_mm: tuple[float, float]

    def bounds(self, margin_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return two corners around everything nearer than `margin_mm`."""
        ends = np.array([self.start_mm, self.end_mm])
        reach = max(self.radii_mm) + margin_mm
        return ends.min(0) - reach, ends.max(0) + reach

    def distance(self, z: Field, y: Field, x: Field) -> Field:
        """Return the signed distance, measured perpendicular to the axis, not to the flank."""
        start = np.asarray(self.start_mm, np.float32)
        along = np.asarray(self.end_mm, np.float32) - start
        length2 = max(float(along @ along), 1e-6)
        dz, dy, dx = z - start[0], y - start[1], x - start[2]
        t = np.clip((dz * along[0] + dy * along[1] + dx * along[2]) * np.float32(1 / length2), 0, 1)
        squared = (dz - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dx - t * along[2]) ** 2
        narrowing = np.float32(self.radii_mm[1] - self.radii_mm[0])
        result: Field = np.sqrt(squared) - (np.float32(self.radii_mm[0]) + narrowing * t)
        return result


Solid = Ellipsoid | Capsule


def tube(points_mm: NDArray[np.float64], radii_mm: NDArray[np.float64]) -> tuple[Capsule, ...]:
    """Make a tube of n - 1 capsules through the points (n, 3)."""
    points, radii = points_mm.tolist(), radii_mm.tolist()
    return tuple(
        Capsule(tuple(points[i]), tuple(points[i + 1]), (radii[i], radii[i + 1])) for i in range(len(points) - 1)
    )


def inside(distance: Field, width_mm: float) -> Field:
    """Return the share, 0 to 1, of a voxel of `width_mm` that is inside."""
    result: Field = np.clip(np.float32(0.5) - distance * np.float32(1 / width_mm), 0, 1)
    return result


def blend(canvas: Field, share: Field, hu: Field | float) -> None:
    """Replace `share` of the canvas by `hu`, in place."""
    canvas += share * (hu - canvas)
