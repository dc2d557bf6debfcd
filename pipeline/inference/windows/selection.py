"""Create the sliding windows that a user selects by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from kits_unet3d.transforms import PreprocessingParameters

from .coarse import CoarseToFine
from .even import EvenWindows
from .reference import ReferenceWindows, StockWindows
from .region import InBody, SkipAir

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
