"""MONAI's own sliding windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import SlidingWindowInferer

from .region import Box


class StockWindows(SlidingWindowInferer):
    """MONAI's sliding windows with Gaussian weights: from the volume's first voxel on a stride apart, the last moved
    back to end with the volume.

    They stay where they are when only some of them are wanted, so a part of a volume is seen as it is in the whole.

    Args:
        roi_size: window in voxels along D, H, W; no axis of the volume may be shorter.
        overlap: of neighbouring windows, as a fraction.
        stitch_device: where the logits are added up; the input's device if not given.
        progress: show a bar over the windows.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        stitch_device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(tuple(roi_size), 1, overlap, mode="gaussian", device=stitch_device, progress=progress)

    def snapped(self, box: Box, shape: Sequence[int]) -> Box:
        """The box of the windows that cover ``box`` in a volume of ``shape`` (D, H, W), and of all centred in it.

        What a window weighs most lies at its centre: one that is centred outside says little of what is inside.
        """
        result = []
        for (a, b), n, roi in zip(box, shape, self.roi_size, strict=True):  # type: ignore[arg-type]
            starts = [*range(0, n - roi, max(int(roi * (1 - self.overlap)), 1)), n - roi]  # type: ignore[operator]
            centred = [start for start in starts if a <= start + roi / 2 <= b]
            first = min([max(start for start in starts if start <= max(a, 0)), *centred])
            last = max([min(start for start in starts if start + roi >= b), first, *centred])
            result.append((first, last + roi))
        return tuple(result)
