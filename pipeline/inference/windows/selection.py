"""The windows a user asks for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from kits_unet3d.transforms import Recipe

from .coarse import CoarseToFine
from .even import EvenWindows
from .reference import ReferenceWindows, StockWindows
from .region import InBody, SkipAir

#: Ways to need fewer windows, besides ``"reference"``: in the box around the body; none of mere air; spread evenly.
OPTIONS = ("body", "skip-air", "even")
#: For scans of any size: no window sees the reference's padding, and none mere air, in which a network finds anything.
DEFAULT = ("body", "skip-air")
#: The whole scan, or a coarse look at it and a full one around what that finds.
ROIS = ("full", "coarse")
#: Smallest kidney that the coarse look is trusted with, of which it must find one on each side, and what is looked at
#: around it.
KIDNEY_ML, MARGIN_MM = 20.0, 24.0


def make_windows(
    recipe: Recipe,
    windows: Sequence[str] = DEFAULT,
    roi: str = "full",
    stitch_device: torch.device | str | None = "cpu",
    progress: bool = False,
) -> Inferer:
    """Sliding windows with the recipe's numbers.

    Args:
        recipe: of the model.
        windows: ``"reference"`` alone, or any of :data:`OPTIONS`; without ``"even"`` they are those of MONAI's stock
            inferer, as many of them as are needed. After a coarse look they are spread evenly in any case, but for
            ``"reference"``.
        roi: one of :data:`ROIS`.
        stitch_device: where the logits are added up; the input's device if None.
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
    padded = {"padding_value": recipe.padding_value, **placed}
    # Rounding of the clipped HU must not make tissue of air.
    air = (recipe.hu_window[0] - recipe.hu_mean) / recipe.hu_std + 1e-3

    stock = StockWindows(recipe.roi_size, recipe.overlap, **placed)
    # Around what a coarse look found, windows end where the box does: padding would be what the network has never seen.
    whole = (ReferenceWindows if "reference" in names else EvenWindows)(recipe.roi_size, recipe.overlap, **padded)
    # With the air alone left out, windows stay where they would be in the whole scan.
    fixed = roi == "full" and not names & {"even", "reference"}
    inferer: Inferer = stock if fixed else whole
    if roi == "coarse":
        d, h, w = recipe.spacing_mm
        least, margin = int(KIDNEY_ML * 1000 / (d * h * w)), round(MARGIN_MM / max(d, h, w))
        coarse = EvenWindows(recipe.roi_size, 0.0, **padded)
        inferer = CoarseToFine(coarse, whole, recipe.roi_size, least, margin)
    if "skip-air" in names:
        inferer = SkipAir(inferer, air, len(recipe.classes))
    if "body" in names:
        inferer = InBody(inferer, air, stock.snapped) if fixed else InBody(inferer, air)
    return inferer
