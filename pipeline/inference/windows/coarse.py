"""Find the kidneys with a coarse pass, then predict around them with a full pass."""

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
    """Run a full pass only around the findings of a coarse pass.

    Unless the coarse pass finds a kidney on each side, the full pass covers the whole volume. Around the findings both
    passes are averaged, weighted as their windows are; elsewhere the coarse logits remain.

    Args:
        coarse: predicts the whole volume quickly.
        fine: predicts the box around each connected component found.
        roi_size: window in voxels; the smallest box.
        least: voxels to be found in each half of the volume's last axis; with fewer the coarse pass does not count.
            Otherwise the surroundings of a missed kidney would be missed too.
        margin: voxels predicted around each component.

    Components smaller than a fiftieth of the largest are left out, unless they lie in another one's box.
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
            logger.info("the coarse pass found no kidney on one side or both; the whole scan is predicted")
            return self.fine(inputs, network, *args, **kwargs)
        weights = self.coarse.total_weights(image.shape[2:])
        for box in boxes:
            part = image[slices(box)]
            share = self.fine.total_weights(part.shape[2:])
            share = (share / (share + weights[slices(box)[2:]])).to(logits.device)
            logits[slices(box)] = torch.lerp(logits[slices(box)], self.fine(part, network, *args, **kwargs), share)
        return like(inputs, logits)

    def boxes(self, found: np.ndarray) -> list[Box]:
        """Return the boxes around findings (D, H, W; W from side to side); an empty list if they are too few."""
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
        # Components that fit into one window, and those whose surroundings overlap, share a box.
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
