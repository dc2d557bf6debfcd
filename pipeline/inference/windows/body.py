"""Without the air around the patient, and without windows of nothing but air."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from scipy import ndimage
from torch.nn import functional

from .region import Box, background, grown, within

#: Edge, in voxels, of the blocks in which the body is looked for.
BLOCK = 4
#: Voxels kept around the body.
MARGIN = 4
#: Parts of the body at least as large as this share of the largest count: arms, legs.
PART = 0.05


def body_box(image: torch.Tensor, air: float, margin: int = MARGIN) -> Box:
    """The box around the patient; the whole volume if nothing in it is denser than air.

    Args:
        image: (1, 1, D, H, W).
        air: intensity up to which a voxel counts as air. Skin is denser, so fat may count as air too.
        margin: voxels around the body. A table, and whatever else is thin, is left out.
    """
    shape = tuple(int(n) for n in image.shape[2:])
    dense = functional.avg_pool3d((image > air).float(), BLOCK, ceil_mode=True)[0, 0] > 0.5
    parts, count = ndimage.label(ndimage.binary_opening(dense.cpu().numpy()))
    if not count:
        return tuple((0, n) for n in shape)
    sizes = np.bincount(parts.ravel())[1:]
    found = ndimage.find_objects(np.isin(parts, 1 + np.flatnonzero(sizes >= PART * sizes.max())).astype(np.uint8))[0]
    box = tuple((s.start * BLOCK, min(s.stop * BLOCK, n)) for s, n in zip(found, shape, strict=True))
    # An opening takes a block away from each side of what is round.
    return grown(box, margin + BLOCK, (0, 0, 0), shape)


class InBody(Inferer):
    """Another inferer in the box around the patient alone; the air around is background.

    Args:
        inferer: is given the box.
        air: see :func:`body_box`.
        snap: gives the box to use for a box and a volume's shape, such as :meth:`StockWindows.snapped`.
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
    """Another inferer, whose network is spared windows of nothing but air: they are background.

    Args:
        inferer: how the network is run over a volume.
        air: intensity up to which a voxel counts as air.
        classes: how many the network tells apart.
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
