"""Remove likely errors from a predicted mask; all steps are off by default."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..io.scan import Scan
from ..runtime.errors import UsageError
from .connected_components import (
    CYST,
    KIDNEY,
    LEAST_KIDNEY_ML,
    TUMOUR,
    Components,
    affine_of,
    body_centre,
    box_around,
    centre_of,
    right_of,
)

#: A voxel and its face neighbours.
FACES = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class PostProcessing:
    """Remove likely errors from a mask, in this order. Components are connected through faces.

    Attributes:
        keep_kidneys: keep the largest component of kidney, tumour and cyst together on each side of the body's
            middle plane, if it has at least 20 mL. The centre of a component decides its side. Two kidneys that
            form one component are therefore kept, and also the largest component on the other side.
        tumour_touches_kidney: drop tumour components that share no face with kidney or cyst.
        min_tumour_mm3: tumour components smaller than this become kidney, or else cyst, if they touch it, or else
            background.

    Raises:
        UsageError: if the size is negative or not finite, or another attribute is not a boolean.
    """

    keep_kidneys: bool = False
    tumour_touches_kidney: bool = False
    min_tumour_mm3: float = 0.0

    def __post_init__(self) -> None:
        for name in ("keep_kidneys", "tumour_touches_kidney"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not (math.isfinite(self.min_tumour_mm3) and self.min_tumour_mm3 >= 0):
            raise UsageError(f"min_tumour_mm3 must be a number of 0 or more, got {self.min_tumour_mm3}")

    @classmethod
    def read(cls, path: str | Path) -> PostProcessing:
        """Read a JSON file with some of the attributes, such as `kits-unet3d folds` writes.

        Raises:
            UsageError: if the file cannot be used.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{path}: post-processing settings are invalid ({error}); known are {[f.name for f in fields(cls)]}"
            ) from error

    def __bool__(self) -> bool:
        """Return whether any step is enabled."""
        return self != PostProcessing()

    def __call__(self, mask: np.ndarray, scan: Scan) -> np.ndarray:
        """Post-process a mask (X, Y, Z, uint8 with kidney 1, tumour 2 and cyst 3) on its scan's grid.

        Return a new array if a step is enabled and there is foreground, else the given one. The input stays unchanged.
        """
        box = box_around(mask) if self else None
        if box is None:
            return mask
        result = mask.copy()
        inside = result[box]
        voxel_mm3 = scan.grid.voxel_ml * 1000
        if self.keep_kidneys:
            middle = float(body_centre(scan.voxels, scan.affine)[0])
            _keep_kidneys(inside, affine_of(box, scan.affine), middle, LEAST_KIDNEY_ML * 1000 / voxel_mm3)
        if self.tumour_touches_kidney or self.min_tumour_mm3:
            least = self.min_tumour_mm3 / voxel_mm3 * (1 - 1e-9)  # exactly this size stays, despite rounding
            _drop_tumours(inside, self.tumour_touches_kidney, least)
        return result


def split_kidneys(mask: np.ndarray, scan: Scan, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Make two classes of the class kidney: kidney_right keeps its value, and kidney_left gets a new one.

    The centre of each component of kidney and tumour decides its side of the body's middle plane. A component that is
    as large as a kidney on both sides is divided by the plane.

    Args:
        mask: (X, Y, Z, uint8) on the scan's grid.
        classes: names of its values, background first; without a kidney nothing changes.

    Returns:
        A new mask, and the names of its classes.
    """
    box = box_around(mask)
    if "kidney" not in classes:
        return mask, tuple(classes)
    number, left = list(classes).index("kidney"), len(classes)
    names = tuple("kidney_right" if name == "kidney" else name for name in (*classes, "kidney_left"))
    if box is None:
        return mask, names
    result = mask.copy()
    inside, affine = result[box], affine_of(box, scan.affine)
    middle = float(body_centre(scan.voxels, scan.affine)[0])
    right = right_of(inside.shape, affine, middle)
    components, least = Components.of(inside > 0), LEAST_KIDNEY_ML / scan.grid.voxel_ml
    for index, where in enumerate(ndimage.find_objects(components.numbers), start=1):
        component = components.numbers[where] == index
        on_right, size = int(np.count_nonzero(component & right[where])), int(components.sizes[index])
        if not least <= on_right <= size - least:  # not a horseshoe kidney
            centre = centre_of(component) + [side.start for side in where]
            on_left = component if affine[0, :3] @ centre + affine[0, 3] <= middle else np.zeros_like(component)
        else:
            on_left = component & ~right[where]
        inside[where][on_left & (inside[where] == number)] = left
    return result, names


def _keep_kidneys(labels: np.ndarray, affine: np.ndarray, middle: float, least: float) -> None:
    components = Components.of(labels > 0)
    large = components.only(components.largest_first(least)[:255])
    del components
    kept: dict[bool, int] = {}
    for number, where in enumerate(ndimage.find_objects(large), start=1):
        centre = centre_of(large[where] == number) + [side.start for side in where]
        kept.setdefault(bool(affine[0, :3] @ centre + affine[0, 3] > middle), number)
    labels[~np.isin(large, list(kept.values()))] = 0


def _drop_tumours(labels: np.ndarray, must_touch: bool, least: float) -> None:
    components = Components.of(labels == TUMOUR)
    small = components.sizes < least
    becomes = np.full(len(components.sizes), TUMOUR, dtype=labels.dtype)
    alone = np.ones(len(components.sizes), dtype=bool)
    for value in (CYST, KIDNEY):  # a tumour at both becomes kidney
        beside = ndimage.binary_dilation(labels == value, FACES)
        touching = np.zeros(len(components.sizes), dtype=bool)
        for numbers, plane in zip(components.numbers, beside, strict=True):
            touching[numbers[plane]] = True
        becomes[small & touching] = value
        alone &= ~touching
    becomes[alone & (small | must_touch)] = 0
    for plane, numbers in zip(labels, components.numbers, strict=True):
        inside = numbers > 0
        plane[inside] = becomes[numbers[inside]]
