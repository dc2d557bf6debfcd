"""Compare the kidneys of a mask with real ones: volume, number, size, place, HU and contrast phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from .connected_components import KIDNEY, LEAST_KIDNEY_ML, Components, centre_of

#: Source of the ranges: 32 label maps of KiTS19 and 40 of KiTS23 (with their cysts), rounded outwards.
LABEL_MAPS = "72 label maps of KiTS19 and KiTS23"
#: Source of the range of cysts, which KiTS19 does not label.
CYSTS = "40 label maps of KiTS23"
#: Lower limit: water, 0 HU; unenhanced kidney has 25 to 45 HU, but 14 in a noisy scan of 3 mm. Upper limit: 35 HU
#: unenhanced plus 217 HU, the largest mean enhancement of cortex (128 patients, PubMed 17367973).
LITERATURE = "water; PubMed 17367973"
#: Kidneys lie behind the peritoneum; the upper limit is half the depth of a large body.
ANATOMY = "anatomy"
#: A scan needs a review below (1 − this) × the lower limit, or above (1 + this) × the upper limit.
MARGIN = 0.25
#: Mean HU of kidney below which contrast agent is unlikely: unenhanced kidney has 25 to 45.
CONTRAST_HU = 70.0
#: Smallest cortex minus medulla, in HU, of the corticomedullary phase. It was 110 to 140 HU at 5 to 30 s after the
#: aorta's enhancement by 50 HU, and below 30 HU at 45 s (PubMed 17367973).
CORTICOMEDULLARY_HU = 30.0
#: Depths below the surface of kidney and tumour, in mm: the cortex is between the first two, the medulla below the
#: third. The outermost voxels are left out, since they also contain fat.
CORTEX_MM, MEDULLA_MM = (1.5, 6.0), 10.0


class Range(NamedTuple):
    """Hold the smallest and the largest plausible value."""

    title: str
    unit: str
    low: float
    high: float
    source: str = LABEL_MAPS


RANGES = {
    "kidney_and_tumour_ml": Range("kidney with its tumours and cysts", "mL", 234, 1671),
    "kidney_ml": Range("kidney", "mL", 104, 760),
    "tumour_ml": Range("tumour", "mL", 0, 1464),  # a scan without a tumour is plausible
    "cyst_ml": Range("cyst", "mL", 0, 141, CYSTS),
    "kidney_extent_mm": Range("length of the longest kidney with its tumour", "mm", 88, 175),
    "components_over_1_ml": Range("connected components of 1 mL or more", "", 1, 2),
    "kidney_distance_mm": Range("distance between right and left kidney", "mm", 78, 202),
    "kidney_height_mm": Range("height of one kidney above the other", "mm", 0, 52),
    "kidney_behind_mm": Range("distance of the kidneys behind the middle of the body", "mm", 0, 150, ANATOMY),
    "kidney_hu": Range("mean of kidney", "HU", 0, 252, LITERATURE),
}


class Kidneys(NamedTuple):
    """Describe the kidneys of a mask.

    Attributes:
        number: kidneys: components of 20 mL or more; one with 20 mL on each side counts twice.
        values: measurements with the names of :data:`RANGES`.
        one_side: ``"right"`` or ``"left"`` if both kidneys are on that side, else None.
        contrast: ``phase``, ``cortex_hu`` and ``medulla_hu`` (:func:`contrast_of`); empty without a kidney.
    """

    number: int = 0
    values: Mapping[str, float] = {"components_over_1_ml": 0.0, "kidney_extent_mm": 0.0}
    one_side: str | None = None
    contrast: Mapping[str, Any] = {}


def describe_kidneys(
    labels: np.ndarray, hu: np.ndarray, right: np.ndarray, affine: np.ndarray, voxel_ml: float, body: np.ndarray
) -> Kidneys:
    """Describe the kidneys of a mask of kidney (1) and tumour (2).

    Args:
        labels: integer array (slices, rows, columns), cut to its foreground.
        hu: the scan in HU, of the same shape.
        right: marks the voxels on the patient's right, of the same shape.
        affine: of this grid, to RAS millimetres.
        voxel_ml: volume of a voxel.
        body: centre of the body, in RAS millimetres.
    """
    components = Components.of(labels > 0)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    least = LEAST_KIDNEY_ML / voxel_ml
    count, longest, on_the_right = 0, 0.0, 0
    centres: list[np.ndarray] = []
    depths: list[tuple[np.ndarray, np.ndarray]] = []
    large = components.only(components.largest_first(least)[:255])
    for number, where in enumerate(ndimage.find_objects(large), start=1):
        longest = max(longest, *((side.stop - side.start) * mm for side, mm in zip(where, spacing_mm, strict=True)))
        component = large[where] == number
        on_right = np.count_nonzero(component & right[where])
        on_both = least <= on_right <= np.count_nonzero(component) - least
        count += 2 if on_both else 1
        centre = centre_of(component) + [side.start for side in where]
        centres.append(affine[:3, :3] @ centre + affine[:3, 3])
        on_the_right += 2 * on_right > np.count_nonzero(component)
        if len(centres) <= 2:
            depths.append(_depths(component, (labels[where] == KIDNEY) & component, hu[where], spacing_mm))
    values = {
        "components_over_1_ml": float(len(components.largest_first(1 / voxel_ml))),
        "kidney_extent_mm": float(longest),
    }
    if not centres:
        return Kidneys(0, values)
    values["kidney_behind_mm"] = float(body[1] - np.mean(centres[:2], axis=0)[1])
    if count == 2 and len(centres) == 2:
        apart = np.abs(centres[0] - centres[1])
        values |= {"kidney_distance_mm": float(apart[0]), "kidney_height_mm": float(apart[2])}
    one_side = {0: "left", 2: "right"}.get(on_the_right) if count == len(centres) == 2 else None
    cortex, medulla = (np.concatenate([found[i] for found in depths]) for i in (0, 1))
    return Kidneys(count, values, one_side, contrast_of(hu[labels == KIDNEY], cortex, medulla))


def _depths(
    component: np.ndarray, kidney: np.ndarray, hu: np.ndarray, spacing_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the HU of cortex and medulla of one component."""
    depth = ndimage.distance_transform_edt(np.pad(component, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    return hu[kidney & (depth > CORTEX_MM[0]) & (depth <= CORTEX_MM[1])], hu[kidney & (depth > MEDULLA_MM)]


def contrast_of(kidney: np.ndarray, cortex: np.ndarray, medulla: np.ndarray) -> dict[str, Any]:
    """Guess the contrast phase from the HU of kidney voxels.

    Returns:
        ``phase``: ``"unenhanced"``, ``"corticomedullary"`` or ``"nephrographic or later"``; ``cortex_hu`` and
        ``medulla_hu``: medians, None without voxels. Empty without a kidney.
    """
    if not kidney.size:
        return {}
    outer, inner = (float(np.median(found)) if found.size else None for found in (cortex, medulla))
    phase = "nephrographic or later"
    if kidney.mean() < CONTRAST_HU:
        phase = "unenhanced"
    elif outer is not None and inner is not None and outer - inner >= CORTICOMEDULLARY_HU:
        phase = "corticomedullary"
    return {"phase": phase, "cortex_hu": outer, "medulla_hu": inner}


def check(values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Compare values with the ranges of the same names.

    Returns:
        For each value its ``name``, ``value``, ``low``, ``high`` and ``source``; ``inside``, whether it is in the
        range; and ``grave``, whether it lies outside by more than a quarter of the nearest limit.
    """
    checks = []
    for name, value in values.items():
        _, _, low, high, source = RANGES[name]
        value = round(float(value), 1)
        grave = not low * (1 - MARGIN) <= value <= high * (1 + MARGIN)
        about = {"low": low, "high": high, "source": source, "inside": low <= value <= high, "grave": grave}
        checks.append({"name": name, "value": value, **about})
    return checks


def flags_of(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a flag for each result of :func:`check` outside its range."""
    flags = []
    for checked in checks:
        title, unit, low, high, source = RANGES[checked["name"]]
        unit = unit and f" {unit}"
        if not checked["inside"]:
            flags.append(f"{title} {checked['value']:g}{unit}, outside {low:g} to {high:g}{unit} ({source})")
    return flags


def needs_review(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a result of :func:`check` is grave."""
    return any(checked["grave"] for checked in checks)
