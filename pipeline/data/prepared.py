"""Opening prepared cases without reading them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform

from ..errors import CaseError


class OpenPreparedd(MapTransform):
    """Replaces paths of ``.npy`` files by memory-mapped arrays, so that a crop reads only what it keeps.

    The maps are copy-on-write: whoever writes to one changes memory, never the file.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if isinstance(d[key], str | Path):
                try:
                    d[key] = np.load(d[key], mmap_mode="c", allow_pickle=False)
                except (OSError, ValueError) as error:
                    raise CaseError(
                        f"{d[key]}: cannot be opened ({error}); `kits-unet3d verify` tells which files are "
                        "damaged, and `kits-unet3d prepare` makes them again once they are removed"
                    ) from error
        return d
