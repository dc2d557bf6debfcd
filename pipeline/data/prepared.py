"""Opening prepared cases without reading them, and preparing those that are not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from kits_unet3d.transforms import Recipe, component_boxes, preparation

from ..runtime.errors import CaseError
from .cases import RawCase, read_case


class OpenPreparedd(MapTransform):
    """Replaces paths of ``.npy`` files by memory-mapped arrays, so that a crop reads only what it keeps.

    The maps are copy-on-write: whoever writes to one changes memory, never the file.

    A case of other programs, which have scans and label maps as they were stored, is prepared each time it is asked
    for; that takes seconds, so `kits-unet3d prepare` is the better way for many epochs.

    Args:
        keys: of the paths.
        recipe: for what is not prepared: a case with the paths ``image`` and ``label``, which gets ``boxes`` and, as
            ``case_id``, its image's path. Without one such a case is an error.
        allow_missing_keys: pass over keys that the dictionary lacks.
    """

    def __init__(self, keys: KeysCollection, recipe: Recipe | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.recipe = recipe

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        paths = {key: Path(d[key]) for key in self.key_iterator(d) if isinstance(d[key], str | Path)}
        if self.recipe is not None and paths and all(path.suffix != ".npy" for path in paths.values()):
            return {**d, **_prepared(Path(d["image"]), Path(d["label"]), self.recipe)}
        for key, path in paths.items():
            try:
                d[key] = np.load(path, mmap_mode="c", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise CaseError(
                    f"{path}: cannot be opened ({error}); `kits-unet3d verify` tells which files are "
                    "damaged, and `kits-unet3d prepare` makes them again once they are removed"
                ) from error
        return d


def _prepared(image: Path, label: Path, recipe: Recipe) -> dict[Hashable, Any]:
    case = RawCase(str(image), image, label, "")
    done = preparation(recipe, source_key="spacing_mm")(read_case(case, len(recipe.classes)))
    values = np.asarray(done["label"], np.uint8)
    return {
        "image": np.asarray(done["image"], np.float32),
        "label": values,
        "boxes": component_boxes(values),
        "case_id": case.case_id,
    }


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
