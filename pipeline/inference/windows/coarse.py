"""Two steps: a coarse look finds the kidneys, a full one is taken around them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from scipy import ndimage

from .reference import ReferenceWindows
from .region import Box, grown, like, slices

logger = logging.getLogger("kits_unet3d.inference")


class CoarseToFine(Inferer):
    """A full look only where a coarse one found something, and everywhere unless it found a kidney on each side.

    Around what was found the two looks are averaged, weighed as their windows are; elsewhere the coarse one stands.

    Args:
        coarse: looks at the whole volume, quickly.
        fine: looks at what is around each part that was found.
        roi_size: window in voxels; the least that is looked at.
        least: voxels found in each half of the volume's last axis, below which the coarse look does not count: with
            one kidney missed, whatever lies around it would be.
        margin: voxels looked at around each part.

    A part of less than a fiftieth of the largest is left out, unless it lies where another is looked at.
    """

    def __init__(
        self, coarse: ReferenceWindows, fine: ReferenceWindows, roi_size: Sequence[int], least: int, margin: int
    ) -> None:
        super().__init__()
        self.coarse, self.fine, self.roi_size = coarse, fine, tuple(roi_size)
        self.least, self.margin = least, margin

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        logits = self.coarse(image, network, *args, **kwargs)
        boxes = self.boxes(logits[0].argmax(dim=0).cpu().numpy() > 0)
        if not boxes:
            logger.info("the coarse look found no kidney on one side or both; the whole scan is looked at")
            return self.fine(inputs, network, *args, **kwargs)
        weights = self.coarse.total_weights(image.shape[2:])
        for box in boxes:
            part = image[slices(box)]
            share = self.fine.total_weights(part.shape[2:])
            share = (share / (share + weights[slices(box)[2:]])).to(logits.device)
            logits[slices(box)] = torch.lerp(logits[slices(box)], self.fine(part, network, *args, **kwargs), share)
        return like(inputs, logits)

    def boxes(self, found: np.ndarray) -> list[Box]:
        """Where to look again, given what was found (D, H, W; W from side to side); nothing if that is too little."""
        middle = found.shape[2] // 2
        if min(np.count_nonzero(found[..., :middle]), np.count_nonzero(found[..., middle:])) < self.least:
            return []
        parts, _ = ndimage.label(found)
        sizes = np.bincount(parts.ravel())[1:]
        around: list[Box] = [
            tuple((s.start, s.stop) for s in box)
            for box, size in zip(ndimage.find_objects(parts), sizes, strict=True)
            if size >= sizes.max() / 50
        ]
        # Parts that fit into one window together, and those whose surroundings overlap, are looked at together.
        merged = True
        while merged:
            merged = False
            for a, b in ((a, b) for i, a in enumerate(around) for b in around[i + 1 :]):
                union = tuple((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))
                if self._overlap(a, b, found.shape) or self._fits(union):
                    around = [box for box in around if box not in (a, b)] + [union]
                    merged = True
                    break
        return [grown(box, self.margin, self.roi_size, found.shape) for box in around]

    def _fits(self, box: Box) -> bool:
        return all(b - a + 2 * self.margin <= n for (a, b), n in zip(box, self.roi_size, strict=True))

    def _overlap(self, a: Box, b: Box, shape: Sequence[int]) -> bool:
        first, second = (grown(box, self.margin, (0, 0, 0), shape) for box in (a, b))
        return all(p[0] < q[1] and q[0] < p[1] for p, q in zip(first, second, strict=True))
