"""Random volumes in place of prepared cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kits_unet3d.transforms import component_boxes


class SyntheticIndex:
    """Gives data lists as :class:`Index` does, of random volumes in memory: speed can be measured without data.

    Augmentation has the same work with them as with real cases; reading files is left out.

    Args:
        roi_size: (D, H, W) of every volume, in voxels.
        cases: of each split. They share ``volumes`` arrays, so that any number needs the same memory.
        volumes: how many different volumes there are.
        seed: of their voxels.
    """

    def __init__(self, roi_size: Sequence[int], cases: int, volumes: int = 4, seed: int = 0) -> None:
        if cases < 1 or volumes < 1:
            raise ValueError(f"cases and volumes must be positive, got {cases} and {volumes}")
        generator = np.random.default_rng(seed)
        label = np.zeros((1, *roi_size), np.uint8)
        # A tumour within a kidney, since the balanced crop looks for both.
        for number, margin in ((1, 1 / 4), (2, 3 / 8)):
            d, h, w = (slice(int(n * margin), n - int(n * margin)) for n in roi_size)
            label[0, d, h, w] = number
        self.cases = cases
        self.volumes = [
            {
                "image": generator.standard_normal(label.shape, dtype=np.float32),
                "label": label,
                "boxes": component_boxes(label),
            }
            for _ in range(volumes)
        ]

    def data_list(self, split: str) -> list[dict[str, Any]]:
        """Each holds case_id, image and label (arrays (1, D, H, W)), and boxes: component boxes by class number."""
        return [
            {"case_id": f"{split}_{number:05d}", **self.volumes[number % len(self.volumes)]}
            for number in range(self.cases)
        ]
