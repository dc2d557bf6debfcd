"""Grids, label maps and a score of separability for the tests of phantoms."""

from __future__ import annotations

import numpy as np

from kits_unet3d.pipeline.phantoms import Phantom
from kits_unet3d.pipeline.phantoms.case import ipl_affine
from kits_unet3d.pipeline.phantoms.kidneys import KIDNEY, TUMOUR

SMALL = {"shape": (96, 192, 192), "spacing_mm": (4.0, 2.0, 2.0)}
TINY = {"shape": (20, 40, 40), "spacing_mm": (8.0, 8.0, 8.0)}


def two_kidneys(*, tumour: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A hand-made label map: two balls 120 mm apart, and a smaller one on the left kidney."""
    spacing = (5.0, 2.0, 2.0)
    z, y, x = np.ogrid[:40, :160, :192]
    label = np.zeros((40, 160, 192), np.uint8)
    for centre in (132, 252):
        distance = ((z * 5 - 100) / 50) ** 2 + ((y * 2 - 190) / 26) ** 2 + ((x * 2 - centre) / 27) ** 2
        label[distance < 1] = KIDNEY
    if tumour:
        label[(z * 5 - 110) ** 2 + (y * 2 - 170) ** 2 + (x * 2 - 275) ** 2 < 20**2] = TUMOUR
    return label, ipl_affine(spacing)


def best_window(phantoms: list[Phantom], classes: tuple[int, ...]) -> float:
    """The highest Dice that one HU window can reach over all the voxels of all the phantoms."""
    edges = np.arange(-200, 505, 5)
    inside, everything, total = np.zeros(edges.size), np.zeros(edges.size), 0
    for phantom in phantoms:
        mask = np.isin(phantom.label, classes)
        inside[1:] += np.histogram(phantom.voxels[mask], edges)[0]
        everything[1:] += np.histogram(phantom.voxels, edges)[0]
        total += int(mask.sum())
    hits, claimed = inside.cumsum(), everything.cumsum()
    low, high = np.triu_indices(edges.size, 1)
    dice = 2 * (hits[high] - hits[low]) / (total + claimed[high] - claimed[low])
    return float(dice.max())
