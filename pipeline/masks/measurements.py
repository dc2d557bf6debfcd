"""Measure a mask: volumes, connected components, and flags on doubtful results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from ..io.scan import Scan
from .connected_components import LEAST_KIDNEY_ML, Parts, affine_of, box_around, centre_of, middle_mm, right_of
from .plausibility import check, describe

#: Number of largest components listed for each class.
LISTED = 10
#: Mean HU of kidney below which contrast agent is unlikely: unenhanced kidney has 25 to 45.
CONTRAST_HU = 70.0
#: The darkest voxel of a CT is air. Without a voxel below this, the HU are unusual or the air is cut away.
DARKEST_HU = -500


def volumes_ml(mask: np.ndarray, voxel_ml: float, classes: Sequence[str]) -> dict[str, float]:
    """Return the volume of each foreground class, in mL."""
    counts = np.zeros(256, dtype=np.int64)
    for part in mask:  # counting all at once would need eight bytes a voxel
        counts += np.bincount(part.ravel(), minlength=256)
    return {name: float(counts[i]) * voxel_ml for i, name in enumerate(classes) if i > 0}


def measure(scan: Scan, mask: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Measure a mask (X, Y, Z, uint8) on its scan's grid.

    Returns:
        ``volumes_ml`` by class; ``sides_ml``, for each class the volume on the patient's ``right`` and ``left``
        of the body's middle plane; ``mean_hu`` by class, None for an empty class; ``counts`` of components
        (connected through faces) by class; ``structures``, the largest components of each class with class, side
        (the patient's, of its centre), volume_ml, longest_axial_mm (from edge to edge within one axial slice)
        and mean_hu; ``checks``, comparisons with real label maps (:func:`plausibility.check`), for models of kidney
        and tumour, with or without cysts; ``flags``, notes on doubtful results.
    """
    labels, affine = scan.grid.facing(mask)  # slices along the first axis are axial
    voxels, _ = scan.grid.facing(scan.voxels)
    voxel_ml = scan.grid.voxel_ml
    result: dict[str, Any] = {"volumes_ml": volumes_ml(mask, voxel_ml, classes)}
    result["sides_ml"] = {name: {"right": 0.0, "left": 0.0} for name in classes[1:]}
    result |= {"mean_hu": dict.fromkeys(classes[1:]), "counts": dict.fromkeys(classes[1:], 0), "structures": []}
    box, kidneys, values = box_around(labels), 0, {"components_over_1_ml": 0.0, "kidney_extent_mm": 0.0}
    if box is not None:
        inside, hu, local = labels[box], voxels[box], affine_of(box, affine)
        middle = middle_mm(voxels, affine)
        right = right_of(inside.shape, local, middle)
        kidneys, values = _kidneys(inside, right, voxel_ml, np.linalg.norm(local[:3, :3], axis=0))
        for number, name in enumerate(classes[1:], start=1):
            region = inside == number
            on_right = int(np.count_nonzero(region & right)) * voxel_ml
            result["sides_ml"][name] = {"right": on_right, "left": result["volumes_ml"][name] - on_right}
            result["mean_hu"][name] = float(hu[region].mean()) if region.any() else None
            parts = Parts.of(region)
            del region
            result["counts"][name] = len(parts.sizes) - 1
            result["structures"] += [{"class": name, **s} for s in _largest(parts, hu, local, voxel_ml, middle)]
            del parts  # free memory for the next class
    result["checks"] = _checks(result["volumes_ml"], values)
    result["flags"] = _flags(result, kidneys, labels.shape, voxels, box)
    result["flags"] += [describe(one) for one in result["checks"] if not one["inside"]]
    return result


def _checks(volumes: dict[str, float], values: dict[str, float]) -> list[dict[str, Any]]:
    """Compare the measurements of a mask of kidney, tumour and cyst with real ones; other classes have no ranges."""
    if volumes.keys() - {"cyst"} != {"kidney", "tumour"}:
        return []
    together = {"kidney_and_tumour_ml": sum(volumes.values())}
    return check(together | {f"{name}_ml": volume for name, volume in volumes.items()} | values)


def _kidneys(
    labels: np.ndarray, right: np.ndarray, voxel_ml: float, spacing_mm: np.ndarray
) -> tuple[int, dict[str, float]]:
    """Count the kidneys: large components of the foreground, twice if large on both sides.

    Return the count, the number of components of 1 mL or more, and the extent of the longest large one in mm.
    """
    parts = Parts.of(labels > 0)
    least = LEAST_KIDNEY_ML / voxel_ml
    count, longest = 0, 0.0
    large = parts.only(parts.largest_first(least)[:255])
    for number, where in enumerate(ndimage.find_objects(large), start=1):
        longest = max(longest, *((side.stop - side.start) * mm for side, mm in zip(where, spacing_mm, strict=True)))
        part = large[where] == number
        on_right = np.count_nonzero(part & right[where])
        count += 2 if least <= on_right <= np.count_nonzero(part) - least else 1
    over_1_ml = float(len(parts.largest_first(1 / voxel_ml)))
    return count, {"components_over_1_ml": over_1_ml, "kidney_extent_mm": float(longest)}


def _largest(
    parts: Parts, voxels: np.ndarray, affine: np.ndarray, voxel_ml: float, middle: float
) -> list[dict[str, Any]]:
    listed = parts.largest_first()[:LISTED]
    large = parts.only(listed)
    found = []
    for number, where in enumerate(ndimage.find_objects(large), start=1):
        inside = large[where] == number
        centre = centre_of(inside) + [side.start for side in where]
        found.append(
            {
                # The world's first axis points to the patient's right.
                "side": "right" if affine[0, :3] @ centre + affine[0, 3] > middle else "left",
                "volume_ml": float(parts.sizes[listed[number - 1]]) * voxel_ml,
                "longest_axial_mm": longest_axial_mm(inside, affine),
                "mean_hu": float(voxels[where][inside].mean()),
            }
        )
    return found


def longest_axial_mm(part: np.ndarray, affine: np.ndarray) -> float:
    """Return the largest edge-to-edge distance of ``part`` (slices, rows, columns) in one slice, in mm."""
    longest = 0.0
    for plane in part:
        rows = np.flatnonzero(plane.any(axis=1))
        if len(rows):
            first = plane[rows].argmax(axis=1)
            last = plane.shape[1] - plane[rows][:, ::-1].argmax(axis=1)
            corners = [np.stack([rows + dr, ends - 0.5], axis=1) for dr in (-0.5, 0.5) for ends in (first, last)]
            longest = max(longest, float(pdist(np.concatenate(corners) @ affine[:3, 1:3].T).max()))
    return longest


def _flags(
    result: dict[str, Any],
    kidneys: int,
    shape: tuple[int, ...],
    voxels: np.ndarray,
    box: tuple[slice, slice, slice] | None,
) -> list[str]:
    flags = []
    if box is not None and any(s.start == 0 or s.stop == n for s, n in zip(box, shape, strict=True)):
        flags.append("cut by the field of view")
    if "kidney" not in result["volumes_ml"]:  # a model without this class
        kidneys = 0
        flags += ["nothing found"] if box is None else []
    elif kidneys < 2:
        flags.append("one kidney" if kidneys else "no kidney")
    mean_hu = result["mean_hu"].get("kidney")
    if kidneys and mean_hu is not None and mean_hu < CONTRAST_HU:
        flags.append("likely no contrast")
    if voxels.min() > DARKEST_HU:
        flags.append("unusual HU")
    return flags
