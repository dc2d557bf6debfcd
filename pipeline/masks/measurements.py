"""Measure a mask: volumes, connected components, and flags on doubtful results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from ..io.scan import Scan
from .connected_components import KIDNEY, Components, affine_of, body_centre, box_around, centre_of, right_of
from .plausibility import Kidneys, check, describe_kidneys, flags_of

#: Number of largest components listed for each class.
LISTED = 10
#: The darkest voxel of a CT is air. Without a voxel below this, the HU are unusual or the air is cut away.
DARKEST_HU = -500


def volumes_ml(mask: np.ndarray, voxel_ml: float, classes: Sequence[str]) -> dict[str, float]:
    """Return the volume of each foreground class, in mL."""
    counts = np.zeros(256, dtype=np.int64)
    for plane in mask:  # counting all at once would need eight bytes a voxel
        counts += np.bincount(plane.ravel(), minlength=256)
    return {name: float(counts[i]) * voxel_ml for i, name in enumerate(classes) if i > 0}


def measure(scan: Scan, mask: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Measure a mask (X, Y, Z, uint8) on its scan's grid.

    Returns:
        ``volumes_ml`` by class; ``sides_ml``, for each class the volume on the patient's ``right`` and ``left``
        of the body's middle plane; ``mean_hu`` by class, None for an empty class; ``counts`` of components
        (connected through faces) by class; ``structures``, the largest components of each class with class, side
        (the patient's, of its centre), volume_ml, longest_axial_mm (from edge to edge within one axial slice)
        and mean_hu; ``contrast``, the guessed phase (:func:`plausibility.contrast_of`), and ``checks``, comparisons
        with real kidneys (:func:`plausibility.check`), for models of kidney and tumour, with or without cysts;
        ``flags``, notes on doubtful results.
    """
    labels, affine = scan.grid.facing(mask)  # slices along the first axis are axial
    voxels, _ = scan.grid.facing(scan.voxels)
    voxel_ml = scan.grid.voxel_ml
    result: dict[str, Any] = {"volumes_ml": volumes_ml(mask, voxel_ml, classes)}
    result["sides_ml"] = {name: {"right": 0.0, "left": 0.0} for name in classes[1:]}
    result |= {"mean_hu": dict.fromkeys(classes[1:]), "counts": dict.fromkeys(classes[1:], 0), "structures": []}
    box, kidneys = box_around(labels), Kidneys()
    if box is not None:
        inside, hu, local = labels[box], voxels[box], affine_of(box, affine)
        body = body_centre(voxels, affine)
        right = right_of(inside.shape, local, body[0])
        if classes[KIDNEY] == "kidney":
            kidneys = describe_kidneys(inside, hu, right, local, voxel_ml, body)
        for number, name in enumerate(classes[1:], start=1):
            region = inside == number
            on_right = int(np.count_nonzero(region & right)) * voxel_ml
            result["sides_ml"][name] = {"right": on_right, "left": result["volumes_ml"][name] - on_right}
            result["mean_hu"][name] = float(hu[region].mean()) if region.any() else None
            components = Components.of(region)
            del region
            result["counts"][name] = len(components.sizes) - 1
            result["structures"] += [{"class": name, **s} for s in _largest(components, hu, local, voxel_ml, body[0])]
            del components  # free memory for the next class
    result["contrast"] = dict(kidneys.contrast)
    result["checks"] = _checks(result, kidneys)
    result["flags"] = _flags(result, kidneys, labels.shape, voxels, box) + flags_of(result["checks"])
    return result


def _checks(result: dict[str, Any], kidneys: Kidneys) -> list[dict[str, Any]]:
    """Compare the measurements of a mask of kidney, tumour and cyst with real ones; other classes lack ranges."""
    volumes = result["volumes_ml"]
    if volumes.keys() - {"cyst"} != {"kidney", "tumour"}:
        return []
    hu = {"kidney_hu": result["mean_hu"]["kidney"]} if result["mean_hu"]["kidney"] is not None else {}
    by_class = {f"{name}_ml": volume for name, volume in volumes.items()}
    return check({"kidney_and_tumour_ml": sum(volumes.values())} | by_class | dict(kidneys.values) | hu)


def _largest(
    components: Components, voxels: np.ndarray, affine: np.ndarray, voxel_ml: float, middle: float
) -> list[dict[str, Any]]:
    listed = components.largest_first()[:LISTED]
    large = components.only(listed)
    found = []
    for number, where in enumerate(ndimage.find_objects(large), start=1):
        inside = large[where] == number
        centre = centre_of(inside) + [side.start for side in where]
        found.append(
            {
                # The world's first axis points to the patient's right.
                "side": "right" if affine[0, :3] @ centre + affine[0, 3] > middle else "left",
                "volume_ml": float(components.sizes[listed[number - 1]]) * voxel_ml,
                "longest_axial_mm": longest_axial_mm(inside, affine),
                "mean_hu": float(voxels[where][inside].mean()),
            }
        )
    return found


def longest_axial_mm(component: np.ndarray, affine: np.ndarray) -> float:
    """Return the largest edge-to-edge distance of ``component`` (slices, rows, columns) in one slice, in mm."""
    longest = 0.0
    for plane in component:
        rows = np.flatnonzero(plane.any(axis=1))
        if len(rows):
            first = plane[rows].argmax(axis=1)
            last = plane.shape[1] - plane[rows][:, ::-1].argmax(axis=1)
            corners = [np.stack([rows + dr, ends - 0.5], axis=1) for dr in (-0.5, 0.5) for ends in (first, last)]
            longest = max(longest, float(pdist(np.concatenate(corners) @ affine[:3, 1:3].T).max()))
    return longest


def _flags(
    result: dict[str, Any],
    kidneys: Kidneys,
    shape: tuple[int, ...],
    voxels: np.ndarray,
    box: tuple[slice, slice, slice] | None,
) -> list[str]:
    flags = []
    if box is not None and any(s.start == 0 or s.stop == n for s, n in zip(box, shape, strict=True)):
        flags.append("cut by the field of view")
    if "kidney" not in result["volumes_ml"]:  # a model without this class
        flags += ["nothing found"] if box is None else []
    elif kidneys.number < 2:
        flags.append("one kidney" if kidneys.number else "no kidney")
    if kidneys.one_side:
        flags.append(f"both kidneys on the {kidneys.one_side}")
    if kidneys.number and kidneys.contrast.get("phase") == "unenhanced":
        flags.append("likely no contrast")
    if voxels.min() > DARKEST_HU:
        flags.append("unusual HU")
    return flags
