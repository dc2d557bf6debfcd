"""Crop a training patch around a foreground component or anywhere, as the reference does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform, Transform
from monai.utils import TransformBackends, convert_to_numpy, ensure_tuple_rep
from scipy import ndimage

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First index and end index (exclusive) along D, H, W."""

#: Components whose box has fewer voxels count as small. Outlines drawn slice by slice leave some in most label maps.
SMALL_COMPONENT = 27


def component_boxes(label: NdarrayOrTensor) -> dict[int, list[Box]]:
    """Return the bounding boxes of the connected components (6-neighbourhood) of each class above 0.

    ``label`` is (D, H, W) or (1, D, H, W). Absent classes are left out, and boxes come in scan order.
    The crop compares the sizes of boxes, not of components, as the reference does.
    """
    array = convert_to_numpy(label)
    array = array[0] if array.ndim == 4 else array
    corner, array = _occupied(array)
    boxes: dict[int, list[Box]] = {}
    for number in np.unique(array):
        if number > 0:
            components, _ = ndimage.label(array == number)
            boxes[int(number)] = [
                tuple((first + s.start, first + s.stop) for first, s in zip(corner, box, strict=True))  # type: ignore[misc]
                for box in ndimage.find_objects(components)
            ]
    return boxes


def _occupied(label: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the first corner of the foreground's box and ``label`` (D, H, W) cropped to it.

    Most of a scan is background and need not be searched.
    """
    corner = []
    for axis in range(label.ndim):
        others = tuple(other for other in range(label.ndim) if other != axis)
        found = np.flatnonzero((label > 0).any(axis=others))
        first, last = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
        label = label[(slice(None),) * axis + (slice(first, last),)]
        corner.append(first)
    return corner, label


def _volume(box: Box) -> int:
    return int(np.prod([stop - start for start, stop in box]))


class RandBalancedCrop(Randomizable, Transform):
    """Crop a patch of ``roi_size`` from an image and its label, often around foreground.

    With probability ``foreground_probability`` the patch is placed on a foreground component. The crop draws one
    of the classes present, then one of its two components with the largest bounding boxes. Along each axis, a patch
    larger than the box contains the box; a smaller patch is inside the box. The distance between the first index of
    the patch and that of the box is drawn from ``range(difference)``, the difference of their sizes. A patch that
    leaves the volume is moved back into it.

    Otherwise, and without foreground, the first index of each axis is drawn from ``range(size − roi)``. Therefore the
    last possible index is never drawn. The index is 0 if the sizes are equal.

    Args:
        roi_size: size of the patch along D, H, W; the volume must be at least as large.
        foreground_probability: 0.4 in the reference.
        class_weights: weights of class 1, 2 …; a present class is drawn in proportion to its weight. Without them,
            all classes have the same weight, as in the reference.
        component_power: draw from all components of the class; the weight of each is the volume of its box in
            voxels to this power. With 0 all have the same weight; with −1 a component of a tenth of the size is drawn
            ten times as often. Boxes below 27 voxels are drawn only if the class has no larger ones. None draws one of
            the two largest, as in the reference.
        margin: additional voxels along D, H, W on each side of the placed patch, for a later rotation. Outside the
            volume, its border is repeated. None adds no voxels.

    Raises:
        ValueError: if a size, probability or weight is out of range.

    Source: MLPerf training's image segmentation benchmark, data loading.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        foreground_probability: float = 0.4,
        class_weights: Sequence[float] | None = None,
        component_power: float | None = None,
        margin: Sequence[int] | int | None = None,
    ) -> None:
        self.roi_size: tuple[int, ...] = tuple(int(n) for n in ensure_tuple_rep(roi_size, 3))
        if min(self.roi_size) < 1:
            raise ValueError(f"roi_size must be positive, got {self.roi_size}")
        if not 0 <= foreground_probability <= 1:
            raise ValueError(f"foreground_probability must be in [0, 1], got {foreground_probability}")
        if class_weights is not None and not (len(class_weights) and all(0 <= w < np.inf for w in class_weights)):
            raise ValueError(
                f"class_weights must be numbers of at least 0, one for each class from 1, got {class_weights}"
            )
        if component_power is not None and not np.isfinite(component_power):
            raise ValueError(f"component_power must be a number, got {component_power}")
        self.foreground_probability = foreground_probability
        self.class_weights = None if class_weights is None else tuple(float(w) for w in class_weights)
        self.component_power = component_power
        self.margin = None if margin is None else tuple(int(n) for n in ensure_tuple_rep(margin, 3))
        if self.margin is not None and min(self.margin) < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        self.start: tuple[int, ...] = (0, 0, 0)

    def _below(self, limit: int) -> int:
        """Draw a number from ``range(limit)``; return 0 if that is empty."""
        return int(self.R.randint(limit)) if limit > 0 else 0

    def _weighted(self, weights: Sequence[float]) -> int:
        """Draw an index in proportion to ``weights``; at least one weight must be above 0."""
        bounds = np.cumsum(weights)
        return int(np.searchsorted(bounds, self.R.random_sample() * bounds[-1], side="right"))

    def _box(self, boxes: Mapping[int, Sequence[Box]]) -> Box | None:
        """Draw the component to place the patch on; return None if no component may be drawn."""
        classes = [number for number in sorted(boxes) if boxes[number]]
        if self.class_weights is None:
            if not classes:
                return None
            number = classes[self._below(len(classes))]
        else:
            if classes and classes[-1] > len(self.class_weights):
                raise ValueError(f"class_weights must be for classes 1 to {classes[-1]}, got {self.class_weights}")
            weights = [self.class_weights[number - 1] for number in classes]
            if not any(weights):
                return None
            number = classes[self._weighted(weights)]
        if self.component_power is not None:
            found = [box for box in boxes[number] if _volume(box) >= SMALL_COMPONENT] or boxes[number]
            return found[self._weighted([_volume(box) ** self.component_power for box in found])]
        largest = sorted(boxes[number], key=_volume)[-2:]
        return largest[self._below(len(largest))]

    def _around(self, extent: tuple[int, int], roi: int, size: int) -> int:
        """Draw the first index of a patch of ``roi`` voxels on ``extent`` of an axis of ``size`` voxels."""
        start, stop = extent
        difference = abs(roi - (stop - start))
        below = self._below(difference)
        above = difference - below
        outward = 1 if roi >= stop - start else -1
        low = max(0, start - outward * below)
        high = min(size, stop + outward * above)
        # A patch at the border of the volume is too small here; move its start so that it has its full size.
        return low if low == 0 else high - roi

    def randomize(self, shape: Sequence[int], boxes: Mapping[int, Sequence[Box]]) -> None:  # type: ignore[override]
        """Draw ``self.start`` for a volume of ``shape`` (D, H, W) and its component boxes by class."""
        if any(n < roi for n, roi in zip(shape, self.roi_size, strict=True)):
            raise ValueError(f"the volume {tuple(shape)} is smaller than roi_size {self.roi_size}; pad it first")
        foreground = self.R.random_sample() < self.foreground_probability
        box = self._box(boxes) if foreground else None
        if box is not None:
            self.start = tuple(
                self._around(extent, roi, n) for extent, roi, n in zip(box, self.roi_size, shape, strict=True)
            )
        else:
            self.start = tuple(self._below(n - roi) for n, roi in zip(shape, self.roi_size, strict=True))

    def crop(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the patch of ``img`` (C, D, H, W) at ``self.start``.

        The patch is a copy, so that no memory map stays open. A MetaTensor's affine is moved to the patch.
        """
        margin = self.margin or (0, 0, 0)
        start = [first - more for first, more in zip(self.start, margin, strict=True)]
        stop = [first + roi + 2 * more for first, roi, more in zip(start, self.roi_size, margin, strict=True)]
        inside = [slice(max(a, 0), min(b, size)) for a, b, size in zip(start, stop, img.shape[1:], strict=True)]
        window = (slice(None), *inside)
        patch = img[window]
        for axis, (a, b, found) in enumerate(zip(start, stop, inside, strict=True), start=1):
            if b - a > found.stop - found.start:
                repeated = np.clip(np.arange(a, b), found.start, found.stop - 1) - found.start
                patch = patch[(slice(None),) * axis + (repeated,)]
        if isinstance(patch, np.ndarray):
            return np.array(patch)
        patch = patch.clone()
        if isinstance(img, MetaTensor) and isinstance(patch, MetaTensor):
            moved = img.affine.clone()
            moved[:3, 3] += img.affine[:3, :3] @ torch.tensor(start, dtype=moved.dtype, device=moved.device)
            patch.affine = moved
        return patch

    def __call__(  # type: ignore[override]
        self,
        img: NdarrayOrTensor,
        label: NdarrayOrTensor,
        boxes: Mapping[int, Sequence[Box]] | None = None,
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Crop an image and its label at the same place.

        Args:
            img: (C, D, H, W); a memory-mapped array is read only inside the patch.
            label: (1, D, H, W) with integers.
            boxes: the result of :func:`component_boxes` for ``label``. It is computed if not given, which reads
                the whole label and takes most of the time.
        """
        self.randomize(label.shape[1:], component_boxes(label) if boxes is None else boxes)
        return self.crop(img), self.crop(label)


class RandBalancedCropd(RandomizableTransform, MapTransform):
    """Apply :class:`RandBalancedCrop` to a dictionary.

    Args:
        keys: arrays to crop alike, each (C, D, H, W).
        label_key: the label that marks the foreground.
        roi_size: size of the patch along D, H, W.
        foreground_probability: 0.4 in the reference.
        boxes_key: key of the component boxes by class, which saves their computation.
        allow_missing_keys: skip keys that the dictionary lacks.
        class_weights, component_power, margin: see :class:`RandBalancedCrop`.
    """

    backend = RandBalancedCrop.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        roi_size: Sequence[int] | int,
        foreground_probability: float = 0.4,
        boxes_key: str | None = None,
        allow_missing_keys: bool = False,
        class_weights: Sequence[float] | None = None,
        component_power: float | None = None,
        margin: Sequence[int] | int | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.label_key, self.boxes_key = label_key, boxes_key
        self.cropper = RandBalancedCrop(roi_size, foreground_probability, class_weights, component_power, margin)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandBalancedCropd:
        super().set_random_state(seed, state)
        self.cropper.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        label = d[self.label_key]
        boxes = d[self.boxes_key] if self.boxes_key is not None else component_boxes(label)
        self.cropper.randomize(label.shape[1:], boxes)
        for key in self.key_iterator(d):
            d[key] = self.cropper.crop(d[key])
        return d
