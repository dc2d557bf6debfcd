"""Define the landmarks of the kidneys and the attenuation of the tissues for a patient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .shapes import Point

#: States of the contrast medium: late arterial to portal venous as in KiTS19, or any phase, even without a medium.
CONTRASTS = ("enhanced", "wide")
#: HU without a contrast medium; fat, muscle and bone hardly take it up.
_PLAIN = {
    "liver": 58.0,
    "spleen": 48.0,
    "pancreas": 42.0,
    "bowel_wall": 40.0,
    "aorta": 42.0,
    "vein": 42.0,
    "cortex": 33.0,
    "medulla": 33.0,
}


@dataclass(frozen=True)
class Landmarks:
    """Hold the kidneys' centres in patient coordinates; a missing kidney is opposite the other."""

    right_mm: Point
    left_mm: Point


@dataclass(frozen=True)
class Attenuation:
    """Hold the mean HU of each tissue for one patient in one contrast phase."""

    fat: float
    muscle: float
    liver: float
    spleen: float
    pancreas: float
    bowel_wall: float
    aorta: float
    vein: float
    cortex: float
    medulla: float
    marrow: float
    cortical_bone: float
    texture: float  # standard deviation of the texture of soft tissues
    noise: float  # standard deviation of the scanner's noise
    uptake: float = 1.0  # share of the contrast medium that tissues take up; also used for tumours
    urine: float = 12.0

    @classmethod
    def draw(cls, rng: np.random.Generator, contrast: str = "enhanced") -> Attenuation:
        """Draw one patient.

        ``"enhanced"``: phase ~ U(0, 1), late arterial to portal venous. Cortex and arteries fall together while the
        medulla rises. ``"wide"``: phase ~ U(-0.5, 2), early arterial to late. One patient in four lacks contrast
        medium, and the others take up U(0.3, 1.3) of it. In one of four of these it has reached the urine,
        U(150, 600) HU.

        Raises:
            ValueError: if ``contrast`` is neither.
        """
        if contrast not in CONTRASTS:
            raise ValueError(f"contrast must be one of {', '.join(CONTRASTS)}, got {contrast!r}")
        phase = rng.uniform(0, 1) if contrast == "enhanced" else rng.uniform(-0.5, 2)
        later = min(phase, 1.0)  # liver, spleen and veins gain nothing after the portal venous phase
        cortex = rng.uniform(182, 222) - 22 * phase
        drawn = cls(
            fat=rng.uniform(-115, -90),
            muscle=rng.uniform(45, 65),
            liver=rng.uniform(88, 105) + 20 * later,
            spleen=rng.uniform(105, 125) + 12 * later,
            pancreas=rng.uniform(80, 115),
            bowel_wall=rng.uniform(75, 120),
            aorta=rng.uniform(185, 230) - 45 * phase,
            vein=rng.uniform(130, 160) + 20 * later,
            cortex=cortex,
            medulla=cortex - rng.uniform(45, 65) + 25 * phase,
            marrow=rng.uniform(140, 235),
            cortical_bone=rng.uniform(380, 600),
            texture=rng.uniform(6, 12),
            noise=rng.uniform(8, 25),
        )
        return drawn if contrast == "enhanced" else drawn._with_other_uptake(rng)

    def _with_other_uptake(self, rng: np.random.Generator) -> Attenuation:
        """Return the patient with no, little or much contrast medium; see :meth:`draw`."""
        without, share = rng.uniform() < 0.25, rng.uniform(0.3, 1.3)
        excreted, urine = rng.uniform() < 0.25, rng.uniform(150, 600)
        uptake = 0.0 if without else share
        taken_up = {name: plain + uptake * (getattr(self, name) - plain) for name, plain in _PLAIN.items()}
        bright = excreted and not without
        return replace(self, uptake=uptake, urine=urine if bright else self.urine, **taken_up)


def find_landmarks(label: NDArray[np.uint8], spacing_mm: Point) -> tuple[Landmarks, Point, NDArray[np.float64]]:
    """Locate the kidneys of a label map.

    Return the landmarks, the patient coordinates of voxel (0, 0, 0), and a sample of the labelled points (n, 3) in
    patient coordinates. The method uses the spread of x, not connected components: kidneys may be joined, displaced
    by tumours, or single.
    """
    points = _labelled_points(label, spacing_mm)
    if not len(points):
        raise ValueError("the label map contains no kidney and no tumour (no voxel is 1, 2 or 3)")
    x = points[:, 2]
    low, high = float(x.min()), float(x.max())
    for _ in range(20):
        on_left = x > (low + high) / 2
        if on_left.all() or not on_left.any():
            break
        low, high = float(x[~on_left].mean()), float(x[on_left].mean())
    share = float(on_left.mean())
    field_centre = (label.shape[2] - 1) / 2 * spacing_mm[2]
    if high - low > 70 and min(share, 1 - share) > 0.08:
        # A large tumour shifts the mean of its side outwards; the gap between the sides is more stable.
        gap = (np.percentile(x[~on_left], 98) + np.percentile(x[on_left], 2)) / 2
        midline = float((low + high) / 2 * 0.4 + gap * 0.6)
        right, left = points[~on_left].mean(0), points[on_left].mean(0)
    elif x.mean() > field_centre:
        midline = float(np.percentile(x, 2)) - 35
        left = points.mean(0)
        right = np.array([left[0] + 10, left[1], 2 * midline - left[2]])
    else:
        midline = float(np.percentile(x, 98)) + 35
        right = points.mean(0)
        left = np.array([right[0] - 10, right[1], 2 * midline - right[2]])
    origin = np.array([(right[0] + left[0]) / 2, (right[1] + left[1]) / 2, midline])
    landmarks = Landmarks(_point(right - origin), _point(left - origin))
    return landmarks, _point(-origin), points - origin


def _labelled_points(label: NDArray[np.uint8], spacing_mm: Point) -> NDArray[np.float64]:
    """Return the labelled voxels of a 4 mm subsample, (n, 3) in mm from voxel (0, 0, 0)."""
    steps = [max(1, round(4 / s)) for s in spacing_mm]
    indices = np.argwhere(label[:: steps[0], :: steps[1], :: steps[2]] > 0)
    if not len(indices):
        indices, steps = np.argwhere(label > 0), [1, 1, 1]
    points: NDArray[np.float64] = indices * np.asarray(steps) * np.asarray(spacing_mm)
    return points


def _point(values: NDArray[np.float64]) -> Point:
    z, y, x = values.tolist()
    return z, y, x
