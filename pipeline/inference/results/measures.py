"""What a mask says about a patient: volumes, single structures, and what makes it doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from ..scan import Scan

#: Parts of a class that are listed one by one, the largest ones.
LISTED = 10
#: Foreground smaller than this is no kidney, in mL; a healthy one has 100 to 250.
LEAST_KIDNEY_ML = 20.0
#: Mean HU of kidney below which there was hardly any contrast agent: unenhanced it has 25 to 45.
CONTRAST_HU = 70.0
#: The darkest voxel of a CT is air; without any below this the values are unusual, or all outside is cut away.
DARKEST_HU = -500


def volumes_ml(mask: np.ndarray, voxel_ml: float, classes: Sequence[str]) -> dict[str, float]:
    """Volume of each class above the background, in mL."""
    counts = np.zeros(256, dtype=np.int64)
    for part in mask:  # counting all at once would need eight bytes a voxel
        counts += np.bincount(part.ravel(), minlength=256)
    return {name: float(counts[i]) * voxel_ml for i, name in enumerate(classes) if i > 0}


def measure(scan: Scan, mask: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Measures of a mask (X, Y, Z, uint8) on its scan's grid.

    Returns:
        ``volumes_ml`` by class; ``counts`` of parts (connected through faces) by class; ``structures``, the
        largest parts of each class with class, side (the patient's), volume_ml, longest_axial_mm (from edge to
        edge within one axial slice) and mean_hu; ``flags``, sentences on what to look at twice.
    """
    # Views, with axes to inferior, posterior, left: slices along the first are axial.
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(scan.affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
    )
    labels = nib.orientations.apply_orientation(mask, turn)
    voxels = nib.orientations.apply_orientation(scan.voxels, turn)
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, mask.shape)
    result: dict[str, Any] = {"volumes_ml": volumes_ml(mask, scan.grid.voxel_ml, classes)}
    result |= {"counts": {name: 0 for name in classes[1:]}, "structures": []}
    box = _box(labels)
    if box is not None:
        corner = affine @ np.array([*(s.start for s in box), 1.0])
        local = affine.copy()
        local[:, 3] = corner
        middle = _middle(voxels, affine)
        for number, name in enumerate(classes[1:], start=1):
            parts, count = ndimage.label(labels[box] == number)
            result["counts"][name] = int(count)
            for part in _largest(parts, voxels[box], local, scan.grid.voxel_ml, middle):
                result["structures"].append({"class": name, **part})
    result["flags"] = _flags(result, labels, voxels, box, scan.grid.voxel_ml)
    return result


def _box(labels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box around all that is not background."""
    sides = []
    for axis in range(3):
        present = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(present):
            return None
        sides.append(slice(int(present[0]), int(present[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _middle(voxels: np.ndarray, affine: np.ndarray) -> float:
    """Where the body's middle plane lies along the world's first axis, in mm."""
    body = np.argwhere(voxels[::8, ::8, ::8] > -300) * 8
    centre = body.mean(axis=0) if len(body) else (np.array(voxels.shape) - 1) / 2
    return float(affine[0, :3] @ centre + affine[0, 3])


def _largest(
    parts: np.ndarray, voxels: np.ndarray, affine: np.ndarray, voxel_ml: float, middle: float
) -> list[dict[str, Any]]:
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    boxes = ndimage.find_objects(parts)
    found = []
    for part in np.argsort(-sizes, kind="stable")[: min(LISTED, len(sizes) - 1)]:
        where = boxes[part - 1]
        inside = parts[where] == part
        centre = np.argwhere(inside).mean(axis=0) + [s.start for s in where]
        found.append(
            {
                # The world's first axis runs to the patient's right.
                "side": "right" if affine[0, :3] @ centre + affine[0, 3] > middle else "left",
                "volume_ml": float(sizes[part]) * voxel_ml,
                "longest_axial_mm": longest_axial_mm(inside, affine),
                "mean_hu": float(voxels[where][inside].mean()),
            }
        )
    return found


def longest_axial_mm(part: np.ndarray, affine: np.ndarray) -> float:
    """Largest distance between two edges of ``part`` (slices, rows, columns) within one slice, in mm."""
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
    result: dict[str, Any], labels: np.ndarray, voxels: np.ndarray, box: tuple[slice, ...] | None, voxel_ml: float
) -> list[str]:
    flags = []
    kidneys = 0
    if box is not None:
        sizes = np.bincount(ndimage.label(labels[box] > 0)[0].ravel())[1:] * voxel_ml
        kidneys = int((sizes >= LEAST_KIDNEY_ML).sum())
        if any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True)):
            flags.append("cut by the field of view")
    if kidneys < 2:
        flags.append("one kidney" if kidneys else "no kidney")
    first_class = next(iter(result["volumes_ml"]))
    listed = [s for s in result["structures"] if s["class"] == first_class]
    volume = sum(s["volume_ml"] for s in listed)
    if kidneys and volume and sum(s["mean_hu"] * s["volume_ml"] for s in listed) / volume < CONTRAST_HU:
        flags.append("likely no contrast")
    if voxels.min() > DARKEST_HU:
        flags.append("unusual HU")
    return flags
