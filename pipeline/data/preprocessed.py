"""Open preprocessed cases as memory maps, and preprocess raw cases on request."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from kits_unet3d.transforms import PreprocessingParameters, component_boxes, preprocessing

from ..runtime.errors import CaseError, UsageError
from .cases import RawCase, read_case


class OpenPreprocessedd(MapTransform):
    """Replace paths of ``.npy`` files by memory-mapped arrays, so that a crop reads only its own voxels.

    The maps are copy-on-write: a write changes memory, never the file.

    Other programs may give raw scans and label maps. Such a case is preprocessed at each access, which takes seconds;
    for many epochs use `kits-unet3d prepare`.

    Args:
        keys: keys of the paths; ``<key>_file`` keeps each path for error messages.
        parameters: preprocessing parameters for a raw case, given by the paths ``image`` and ``label``. The case gets
            ``boxes`` and, as ``case_id``, the path of its image. Without parameters a raw case is an error.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(
        self, keys: KeysCollection, parameters: PreprocessingParameters | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.parameters = parameters

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        paths = {key: Path(d[key]) for key in self.key_iterator(d) if isinstance(d[key], str | Path)}
        if self.parameters is not None and paths and all(path.suffix != ".npy" for path in paths.values()):
            return {**d, **_preprocessed(Path(d["image"]), Path(d["label"]), self.parameters)}
        for key, path in paths.items():
            d[f"{key}_file"] = str(path)
            try:
                d[key] = np.load(path, mmap_mode="c", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise CaseError(
                    f"{path}: cannot be opened ({error}); `kits-unet3d verify` lists the files that are "
                    "damaged, and `kits-unet3d prepare` makes them again"
                ) from error
        image, label = d.get("image"), d.get("label")
        if isinstance(image, np.ndarray) and isinstance(label, np.ndarray) and image.shape != label.shape:
            raise CaseError(
                f"{paths.get('label')}: has the shape {label.shape}, but the image has {image.shape}; `kits-unet3d "
                "prepare` makes both again"
            )
        return d


class RequireClassesd(MapTransform):
    """Check that labels contain only the values of classes.

    Another value would fail only in the loss, and on some devices would end the process. Use this transform after the
    crop: it then searches the patch alone, in a fraction of a millisecond.

    Args:
        keys: keys of the labels, (1, D, H, W).
        parameters: preprocessing parameters with the names of the classes.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(
        self, keys: KeysCollection, parameters: PreprocessingParameters, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = len(parameters.classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            extremes = torch.aminmax(torch.as_tensor(d[key]))
            for value in (extremes.max.item(), extremes.min.item()):
                if not 0 <= value < self.classes:
                    raise UsageError(
                        f"{d.get(f'{key}_file', key)}: contains the value {value:g}, but the labels of "
                        f"{d.get('case_id', 'a case')} must be 0 to {self.classes - 1}; `kits-unet3d verify` lists the "
                        "files that are damaged, and `kits-unet3d prepare` makes them again"
                    )
        return d


def _preprocessed(image: Path, label: Path, parameters: PreprocessingParameters) -> dict[Hashable, Any]:
    case = RawCase(str(image), image, label, "")
    done = preprocessing(parameters, source_key="spacing_mm")(read_case(case, len(parameters.classes)))
    values = np.asarray(done["label"], np.uint8)
    return {
        "image": np.asarray(done["image"], np.float32),
        "label": values,
        "boxes": component_boxes(values),
        "case_id": case.case_id,
    }


class SyntheticIndex:
    """Make data lists like :class:`Index` from random volumes in memory, to measure speed without data.

    Augmentation takes the same work as with real cases, but no files are read.

    Args:
        roi_size: (D, H, W) of every volume, in voxels.
        cases: cases of each split. They share ``volumes`` arrays, so that any number needs the same memory.
        volumes: number of different volumes.
        seed: seed of the voxels.
    """

    def __init__(self, roi_size: Sequence[int], cases: int, volumes: int = 4, seed: int = 0) -> None:
        if cases < 1 or volumes < 1:
            raise ValueError(f"cases and volumes must be positive, got {cases} and {volumes}")
        generator = np.random.default_rng(seed)
        label = np.zeros((1, *roi_size), np.uint8)
        # The balanced crop needs both classes, so put a tumour within a kidney.
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
        """Return cases with case_id, image and label (arrays (1, D, H, W)), and boxes (component boxes by class)."""
        return [
            {"case_id": f"{split}_{number:05d}", **self.volumes[number % len(self.volumes)]}
            for number in range(self.cases)
        ]
