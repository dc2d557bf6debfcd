"""Select the sliding windows of a prediction: all of them, fewer, or those around the kidneys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from scipy import ndimage
from torch.nn import functional

from kits_unet3d.transforms import PreprocessingParameters

from .sliding_windows import Box, EvenWindows, ReferenceWindows, StockWindows, like

#: Logit of the background, and negated of each other class, outside the predicted boxes.
SURE = 10.0


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


#: Edge, in voxels, of the blocks of the search for the body.
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


logger = logging.getLogger("kits_unet3d.inference")


class CoarseToFine(Inferer):
    """Run a full pass only around the findings of a coarse pass.

    Unless the coarse pass finds a kidney on each side, the full pass covers the whole volume. Around the findings both
    passes are averaged, weighted as their windows are; elsewhere the coarse logits remain.

    Args:
        coarse: predicts the whole volume quickly.
        fine: predicts the box around each connected component found.
        roi_size: window in voxels; the smallest box.
        least: smallest number of voxels that the coarse pass must find in each half of the volume's last axis (left
            and right). With fewer it may have missed a kidney, and the full pass covers the whole volume.
        margin: voxels predicted around each component.

    Components smaller than a fiftieth of the largest are left out, unless they are inside the box of another one.
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


#: Names besides ``"reference"``, for fewer windows: in the box around the body; none of air alone; spread evenly.
OPTIONS = ("body", "skip-air", "even")
#: For scans of any size: no window holds the reference's padding or air alone, where a network may find any class.
DEFAULT = ("body", "skip-air")
#: A full pass over the whole scan, or a coarse pass and a full one around its findings.
ROIS = ("full", "coarse")
#: Smallest kidney that a trusted coarse pass must find on each side, and the margin predicted around it.
KIDNEY_ML, MARGIN_MM = 20.0, 24.0


def make_windows(
    parameters: PreprocessingParameters,
    windows: Sequence[str] = DEFAULT,
    roi: str = "full",
    stitch_device: torch.device | str | None = "cpu",
    progress: bool = False,
) -> Inferer:
    """Return an inferer with sliding windows of the model's size and overlap.

    Args:
        parameters: preprocessing parameters of the model.
        windows: ``"reference"`` alone, or any of :data:`OPTIONS`. Without ``"even"`` they are those of MONAI's stock
            inferer, as many as are needed. After a coarse pass they are always spread evenly, except for
            ``"reference"``.
        roi: one of :data:`ROIS`.
        stitch_device: sums the logits; the input's device if None.
        progress: show a bar over the windows.

    Raises:
        ValueError: for unknown names, or ``"reference"`` together with others.
    """
    names = set(windows)
    if not names or not (names == {"reference"} or names <= set(OPTIONS)):
        raise ValueError(f"windows must be reference alone or some of {', '.join(OPTIONS)}, got {' '.join(windows)}")
    if roi not in ROIS:
        raise ValueError(f"roi must be one of {', '.join(ROIS)}, got {roi!r}")
    placed: dict[str, Any] = {"stitch_device": stitch_device, "progress": progress}
    padded = {"padding_value": parameters.padding_value, **placed}
    # Rounding of the clipped HU must not turn air into tissue.
    air = (parameters.hu_window[0] - parameters.hu_mean) / parameters.hu_std + 1e-3

    stock = StockWindows(parameters.roi_size, parameters.overlap, **placed)
    # Around coarse findings windows end with their box, since the network has never seen such padding.
    whole = (ReferenceWindows if "reference" in names else EvenWindows)(
        parameters.roi_size, parameters.overlap, **padded
    )
    # If only air is left out, windows keep their positions of the whole scan.
    fixed = roi == "full" and not names & {"even", "reference"}
    inferer: Inferer = stock if fixed else whole
    if roi == "coarse":
        d, h, w = parameters.spacing_mm
        least, margin = int(KIDNEY_ML * 1000 / (d * h * w)), round(MARGIN_MM / max(d, h, w))
        coarse = EvenWindows(parameters.roi_size, 0.0, **padded)
        inferer = CoarseToFine(coarse, whole, parameters.roi_size, least, margin)
    if "skip-air" in names:
        inferer = SkipAir(inferer, air, len(parameters.classes))
    if "body" in names:
        inferer = InBody(inferer, air, stock.snapped) if fixed else InBody(inferer, air)
    return inferer
