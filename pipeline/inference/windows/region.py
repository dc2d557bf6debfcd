"""Parts of a volume, and what is said about the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from .reference import like

#: (first, last + 1) along D, H, W.
Box = tuple[tuple[int, int], ...]
#: Logit of the background, and of each class with the sign turned, where the network did not look.
SURE = 10.0


def slices(box: Box) -> tuple[slice, ...]:
    """An index into (B, C, D, H, W)."""
    return (slice(None), slice(None), *(slice(a, b) for a, b in box))


def background(shape: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
    """Logits (B, C, D, H, W) that are sure of the first class."""
    logits = torch.full(tuple(shape), -SURE, device=device)
    logits[:, 0] = SURE
    return logits


def grown(box: Box, margin: int, least: Sequence[int], shape: Sequence[int]) -> Box:
    """``box`` with a margin on each side, and of ``least`` size along each axis, as far as ``shape`` allows."""
    result = []
    for (a, b), wanted, n in zip(box, least, shape, strict=True):
        more = max(wanted - (b - a) - 2 * margin, 0)
        a, b = a - margin - more // 2, b + margin + more - more // 2
        if more:  # at a border it is moved, so as to stay whole
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
    """``inferer`` in each box alone; everywhere else background. Where boxes overlap the later one counts.

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
