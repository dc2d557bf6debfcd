"""Predict boxes of a volume, and set the rest to background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from scipy import ndimage
from torch.nn import functional

#: (first, last + 1) along D, H, W.
Box = tuple[tuple[int, int], ...]
#: Logit of the background, and negated of each other class, outside the predicted boxes.
SURE = 10.0


def like(inputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return ``values``, with affine and history of ``inputs`` if that is a MetaTensor."""
    if isinstance(inputs, MetaTensor):
        return MetaTensor(values, meta=inputs.meta, applied_operations=inputs.applied_operations)
    return values


def slices(box: Box) -> tuple[slice, ...]:
    """Return the index of a box in (B, C, D, H, W)."""
    return (slice(None), slice(None), *(slice(a, b) for a, b in box))


def background(shape: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
    """Return logits (B, C, D, H, W) that are certain of the first class."""
    logits = torch.full(tuple(shape), -SURE, device=device)
    logits[:, 0] = SURE
    return logits


def grown(box: Box, margin: int, least: Sequence[int], shape: Sequence[int]) -> Box:
    """Grow ``box`` by a margin on each side, and to ``least`` along each axis, as far as ``shape`` allows."""
    result = []
    for (a, b), wanted, n in zip(box, least, shape, strict=True):
        more = max(wanted - (b - a) - 2 * margin, 0)
        a, b = a - margin - more // 2, b + margin + more - more // 2
        if more:  # moved away from a border, to keep its size
            moved = max(-a, 0) - max(b - n, 0)
            a, b = a + moved, b + moved
        result.append((max(a, 0), min(b, n)))
    return tuple(result)


def within(
    inferer: Inferer,
    inputs: torch.Tensor,
    network: Callable[..., torch.Tensor],
    boxes: Sequence[Box],
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Run ``inferer`` in each box, and return background elsewhere. The later one of overlapping boxes counts.

    Args:
        inputs: (1, C, D, H, W).
        boxes: at least one.
    """
    image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    if len(boxes) == 1 and boxes[0] == tuple((0, n) for n in image.shape[2:]):
        return inferer(inputs, network, *args, **kwargs)  # type: ignore[no-any-return]
    logits: torch.Tensor | None = None
    for box in boxes:
        part = inferer(image[slices(box)], network, *args, **kwargs)
        if logits is None:
            logits = background((*part.shape[:2], *image.shape[2:]), part.device)
        logits[slices(box)] = part
    return like(inputs, logits)  # type: ignore[arg-type]


#: Edge, in voxels, of the blocks in which the body is searched.
BLOCK = 4
#: Voxels kept around the body.
MARGIN = 4
#: Smallest connected component of the body that counts (arms, legs), as a share of the largest.
PART = 0.05


def body_box(image: torch.Tensor, air: float, margin: int = MARGIN) -> Box:
    """Return the box around the patient; the whole volume if nothing in it is denser than air.

    Args:
        image: (1, 1, D, H, W).
        air: intensity up to which a voxel counts as air. Skin is denser, so fat may count as air too.
        margin: voxels around the body. A table and other thin objects are left out.
    """
    shape = tuple(int(n) for n in image.shape[2:])
    dense = functional.avg_pool3d((image > air).float(), BLOCK, ceil_mode=True)[0, 0] > 0.5
    parts, count = ndimage.label(ndimage.binary_opening(dense.cpu().numpy()))
    if not count:
        return tuple((0, n) for n in shape)
    sizes = np.bincount(parts.ravel())[1:]
    found = ndimage.find_objects(np.isin(parts, 1 + np.flatnonzero(sizes >= PART * sizes.max())).astype(np.uint8))[0]
    box = tuple((s.start * BLOCK, min(s.stop * BLOCK, n)) for s, n in zip(found, shape, strict=True))
    # An opening removes a block from each side of round shapes.
    return grown(box, margin + BLOCK, (0, 0, 0), shape)


class InBody(Inferer):
    """Run another inferer in the box around the patient alone; the air around is background.

    Args:
        inferer: receives the box.
        air: see :func:`body_box`.
        snap: returns the box to use for a box and a volume's shape, such as :meth:`StockWindows.snapped`.
    """

    def __init__(
        self, inferer: Inferer, air: float, snap: Callable[[Box, Sequence[int]], Box] = lambda box, shape: box
    ) -> None:
        super().__init__()
        self.inferer, self.air, self.snap = inferer, air, snap

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        box = self.snap(body_box(image, self.air), image.shape[2:])
        return within(self.inferer, inputs, network, [box], *args, **kwargs)


class SkipAir(Inferer):
    """Run another inferer, and set windows of nothing but air to background without the network.

    Args:
        inferer: runs the network over a volume.
        air: intensity up to which a voxel counts as air.
        classes: number of the network's classes.
    """

    def __init__(self, inferer: Inferer, air: float, classes: int) -> None:
        super().__init__()
        self.inferer, self.air, self.classes = inferer, air, classes

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        def looked_at(windows: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
            if bool((windows > self.air).any()):
                return network(windows, *arguments, **named)
            return background((windows.shape[0], self.classes, *windows.shape[2:]), windows.device)

        return self.inferer(inputs, looked_at, *args, **kwargs)
