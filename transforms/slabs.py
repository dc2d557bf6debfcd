"""Interpolate trilinearly without a float32 copy of the whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

#: Planes resampled at once, and rows of a block. Blocks of rows of a large scan are freed one by one.
PLANES, ROWS = 16, 64


def trilinear(img: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Match ``interpolate(img.float(), shape, mode="trilinear", align_corners=True)`` bit for bit.

    Args:
        img: (C, D, H, W), of any type.
        shape: target (D, H, W).

    The weights are nested, first along W, then H, then D. So the planes can be resampled before the axis D.
    Each plane is passed as a volume of depth 1, because ``bilinear`` rounds at other places.
    """
    depth, height, width = (int(n) for n in shape)
    rows = [range(first, min(first + ROWS, height)) for first in range(0, height, ROWS)]
    blocks = [torch.empty((*img.shape[:2], len(block), width), device=img.device) for block in rows]
    for first in range(0, img.shape[1], PLANES):
        for channel, volume in enumerate(img[:, first : first + PLANES]):
            flat = interpolate(volume.float()[None, :, None], (1, height, width), mode="trilinear", align_corners=True)
            for block, values in zip(blocks, flat[0, :, 0].split(ROWS, dim=1), strict=True):
                block[channel, first : first + PLANES] = values
    result = torch.empty((img.shape[0], depth, height, width), device=img.device)
    for part in rows:
        across = interpolate(blocks.pop(0)[None], (depth, len(part), width), mode="trilinear", align_corners=True)
        result[:, :, part.start : part.stop] = across[0]
    return result
