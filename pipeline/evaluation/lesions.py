"""Compare lesions, the connected components of tumours and cysts, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from ..masks.connected_components import Components

#: Edges between the sizes of lesions in mm: the diameter of a ball of the same volume.
SIZES_MM = (10, 20, 40)
#: Smaller components are left out: outlines drawn slice by slice leave bits of a few voxels.
LEAST_MM = 3.0
#: Share of a lesion's voxels that the other mask must mark as a lesion, so that both are the same.
LEAST_SHARE = 0.1
#: Name for a lesion that the other mask does not mark, and for the sum over all sizes.
NONE, ALL = "none", "all"


def size_names() -> list[str]:
    """Return the names of the sizes in mm: ``0-10``, ``10-20``, ``20-40``, ``40-``."""
    return [f"{low}-{high}" for low, high in zip((0, *SIZES_MM), (*SIZES_MM, ""), strict=True)]


def find_lesions(
    predicted: np.ndarray, ground_truth: np.ndarray, classes: Mapping[str, int], voxel_ml: float
) -> dict[str, list[dict[str, Any]]]:
    """Find the lesions of two label maps (X, Y, Z), with the classes that the other map marks there.

    A lesion is a connected component of one class (through faces), as reports count them. If classes of
    lesions cover at least a tenth of it in the other map, it is read as the one with most voxels there, else as
    ``none``.

    Args:
        predicted, ground_truth: label maps of one shape.
        classes: value of each class of lesions, by name.
        voxel_ml: volume of a voxel in mL.

    Returns:
        ``lesions`` of the ground truth and ``predicted`` ones, each with ``class``, ``volume_ml``, ``diameter_mm`` and
        ``read_as``, which is the class that the other map marks.
    """
    return {
        "lesions": list(_lesions_of(ground_truth, predicted, classes, voxel_ml)),
        "predicted": list(_lesions_of(predicted, ground_truth, classes, voxel_ml)),
    }


def _lesions_of(
    labels: np.ndarray, other: np.ndarray, classes: Mapping[str, int], voxel_ml: float
) -> Iterable[dict[str, Any]]:
    if not labels.size:  # cut to the foreground of two empty masks
        return
    for name, value in classes.items():
        components = Components.of(labels == value)
        for number, where in enumerate(ndimage.find_objects(components.numbers), start=1):
            volume = float(components.sizes[number]) * voxel_ml
            diameter = (6000 * volume / np.pi) ** (1 / 3)
            if diameter >= LEAST_MM:
                marked = other[where][components.numbers[where] == number]
                found = {of: int((marked == wanted).sum()) for of, wanted in classes.items()}
                most = max(found, key=lambda of: (found[of], of == name))  # of equal ones its own
                read_as = most if sum(found.values()) >= LEAST_SHARE * marked.size else NONE
                yield {"class": name, "volume_ml": volume, "diameter_mm": float(diameter), "read_as": read_as}


def detection(by_case: Mapping[str, Mapping[str, list[dict[str, Any]]]], classes: Iterable[str]) -> dict[str, Any]:
    """Summarise the lesions of all cases.

    A lesion is found if it is read as its own class. A predicted lesion is a false positive if the ground truth marks
    another class or none there, so a tumour that is read as a cyst is both missed and a false positive.

    Args:
        by_case: results of :func:`find_lesions` by case.
        classes: names of the classes of lesions.

    Returns:
        ``by_size``, for each class and size in mm (and ``all``): ``lesions``, ``found``, ``sensitivity`` (None without
        a lesion), ``false_positives`` and ``false_positives_per_case``. ``confusion``: for each class, how many of its
        lesions are read as each class and as ``none``; for ``none``, the predicted lesions without any there.
    """
    names, sizes = list(classes), [*size_names(), ALL]
    counts: Counter[tuple[str, str, str]] = Counter()
    confusion = {name: dict.fromkeys((*names, NONE), 0) for name in names}
    confusion[NONE] = dict.fromkeys(names, 0)
    for case in by_case.values():
        for lesion in case["lesions"]:
            name, read_as = lesion["class"], lesion["read_as"]
            confusion[name][read_as] += 1
            for size in (_size(lesion), ALL):
                counts[name, size, "lesions"] += 1
                counts[name, size, "found"] += read_as == name
        for lesion in case["predicted"]:
            name, marked = lesion["class"], lesion["read_as"]
            confusion[NONE][name] += marked == NONE
            for size in (_size(lesion), ALL):
                counts[name, size, "false_positives"] += marked != name
    by_size: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in names}
    for name in names:
        for size in sizes:
            lesions, found, false = (counts[name, size, of] for of in ("lesions", "found", "false_positives"))
            by_size[name][size] = {
                "lesions": lesions,
                "found": found,
                "sensitivity": found / lesions if lesions else None,
                "false_positives": false,
                "false_positives_per_case": false / len(by_case) if by_case else None,
            }
    return {"by_size": by_size, "confusion": confusion}


def _size(lesion: Mapping[str, Any]) -> str:
    return size_names()[int(np.searchsorted(SIZES_MM, lesion["diameter_mm"], side="right"))]


def detection_rows(found: Mapping[str, Any]) -> Iterable[str]:
    """Yield a row per class and size with lesions or false positives, then a row per class of the confusion."""
    for name, sizes in found["by_size"].items():
        for size, of in sizes.items():
            if of["lesions"] or of["false_positives"]:
                yield (
                    f"{name:<7} {size + (' mm' if size != ALL else ' sizes'):<10} found {of['found']} of "
                    f"{of['lesions']}, false positives {of['false_positives']}"
                )
    for name, read_as in found["confusion"].items():
        what = f"{name} in the ground truth" if name != NONE else "no lesion in the ground truth"
        yield f"{what}: predicted as " + ", ".join(f"{other} {count}" for other, count in read_as.items())
