"""Define the preprocessing parameters and the transform chains built from them.

Source of every number: MLPerf training's image segmentation benchmark (PyTorch reference, v1.0 to v4.0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from monai.transforms import (
    Compose,
    EnsureTyped,
    NormalizeIntensityd,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    SpatialPadd,
    ThresholdIntensityd,
    Transform,
)

from .balanced_crop import RandBalancedCropd
from .evaluation_crop import CropToStrided
from .resample import ResampleToSpacingd

#: Classes of KiTS that cannot be the background.
FOREGROUND = ("kidney", "tumour", "cyst")
#: Largest values that can be meant; a damaged or hostile file may hold others, which would exhaust the memory.
LARGEST_MM, LARGEST_HU, LARGEST_ROI = 100.0, 1e5, 1024
#: Smallest standard deviation that intensities of tissue can have, in HU.
LEAST_STD = 1.0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(map(_is_number, value))


def _is_name(value: Any) -> bool:
    # MONAI evaluates strings of a configuration that begin with these marks; a name becomes part of one, and of files.
    return (
        isinstance(value, str)
        and value.isprintable()
        and value.strip()[:1] not in ("", "$", "@", "%")
        and not {"/", "\\"} & set(value)
    )


@dataclass(frozen=True)
class PreprocessingParameters:
    """Hold the preprocessing parameters. The defaults are the reference's.

    Every field is checked, since the parameters may come from a file that someone else has written.

    Attributes:
        spacing_mm: voxel size along D, H, W.
        hu_window: lowest and highest HU kept.
        hu_mean, hu_std: subtrahend and then divisor, in HU.
        roi_size: size of training patches and sliding windows, in voxels; volumes are padded to it.
        overlap: overlap of neighbouring sliding windows, as a fraction of the window.
        padding_value: normalised intensity that sliding windows contain beyond the volume.
        classes: name of each label value, background first.
    """

    spacing_mm: tuple[float, float, float] = (1.6, 1.2, 1.2)
    hu_window: tuple[float, float] = (-79.0, 304.0)
    hu_mean: float = 101.0
    hu_std: float = 76.9
    roi_size: tuple[int, int, int] = (128, 128, 128)
    overlap: float = 0.5
    padding_value: float = -2.2
    classes: tuple[str, ...] = ("background", "kidney", "tumour")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # JSON lacks tuples
                object.__setattr__(self, field.name, tuple(value))
        if not _are_numbers(self.spacing_mm, 3) or not all(0 < size <= LARGEST_MM for size in self.spacing_mm):
            raise ValueError(f"spacing_mm must be 3 positive numbers up to {LARGEST_MM:g}, got {self.spacing_mm}")
        if not _are_numbers(self.hu_window, 2) or self.hu_window[0] >= self.hu_window[1]:
            raise ValueError(f"hu_window must be (low, high), got {self.hu_window}")
        for name in ("hu_mean", "hu_std", "overlap", "padding_value"):
            if not _is_number(value := getattr(self, name)) or abs(value) > LARGEST_HU:
                raise ValueError(f"{name} must be a finite number within ±{LARGEST_HU:g}, got {value!r}")
        if self.hu_std < LEAST_STD:
            raise ValueError(f"hu_std must be at least {LEAST_STD:g}, got {self.hu_std}")
        sizes_are_whole = _are_numbers(self.roi_size, 3) and all(isinstance(size, Integral) for size in self.roi_size)
        if not sizes_are_whole or not all(1 <= size <= LARGEST_ROI for size in self.roi_size):
            raise ValueError(f"roi_size must be 3 positive whole numbers up to {LARGEST_ROI}, got {self.roi_size}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), got {self.overlap}")
        if not isinstance(self.classes, tuple) or len(self.classes) < 2 or len({*self.classes}) < len(self.classes):
            raise ValueError(f"classes must be two or more different names, background first, got {self.classes!r}")
        if self.classes[0] in FOREGROUND:
            raise ValueError(f"classes must begin with the background, got {self.classes!r}")
        for name in self.classes:
            if not _is_name(name):
                raise ValueError(
                    f"classes must be names without slashes that do not begin with $, @ or %, got {name!r}"
                )

    @property
    def stride(self) -> tuple[int, int, int]:
        """Return the step between sliding windows in voxels."""
        d, h, w = (max(int(n * (1 - self.overlap)), 1) for n in self.roi_size)
        return d, h, w

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings, for JSON and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessingParameters:
        """Build the parameters from the result of :meth:`as_dict`; an unknown name is an error."""
        if not isinstance(values, Mapping):
            raise ValueError(f"preprocessing parameters must be a dictionary, got a {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(repr, set(values) - known))
        if unknown:
            raise ValueError(f"unknown preprocessing parameters {unknown}; known are {sorted(known)}")
        return cls(**dict(values))


def normalisation(parameters: PreprocessingParameters, image_key: str = "image") -> list[Transform]:
    """Clip to the HU window, subtract the mean and divide by the standard deviation.

    ``ScaleIntensityRanged`` would need one step, but differs by 7e-7 from the reference.
    """
    low, high = parameters.hu_window
    return [
        ThresholdIntensityd(image_key, threshold=low, above=True, cval=low),
        ThresholdIntensityd(image_key, threshold=high, above=False, cval=high),
        NormalizeIntensityd(image_key, subtrahend=parameters.hu_mean, divisor=parameters.hu_std),  # type: ignore[arg-type]
    ]


def preprocessing(
    parameters: PreprocessingParameters,
    image_key: str = "image",
    label_key: str = "label",
    source_key: str | None = None,
) -> Compose:
    """Preprocess a CT in HU and an optional label, each (1, D, H, W) with axes to inferior, posterior, left (IPL).

    The chain resamples, clips, normalises and pads each axis with edge values to the patch size. Training and
    inference share it. ``source_key`` names the voxel size in the dictionary; without it the affine gives the size.
    """
    both = (image_key, label_key)
    return Compose(
        [
            ResampleToSpacingd(
                both, parameters.spacing_mm, ("trilinear", "nearest"), source_key, allow_missing_keys=True
            ),
            *normalisation(parameters, image_key),
            SpatialPadd(both, parameters.roi_size, mode="edge", allow_missing_keys=True),
        ]
    )


def training_patch(
    parameters: PreprocessingParameters,
    image_key: str,
    label_key: str,
    boxes_key: str | None = None,
    foreground_probability: float = 0.4,
    class_weights: Sequence[float] | None = None,
    component_power: float | None = None,
    margin: Sequence[int] | None = None,
) -> list[Transform]:
    """Crop a patch from a preprocessed volume and flip it; every augmentation begins with this."""
    both = (image_key, label_key)
    return [
        RandBalancedCropd(
            both,
            label_key,
            parameters.roi_size,
            foreground_probability,
            boxes_key,
            class_weights=class_weights,
            component_power=component_power,
            margin=margin,
        ),
        EnsureTyped(both, track_meta=False),
        *(RandFlipd(both, prob=1 / 3, spatial_axis=axis) for axis in range(3)),
    ]


def augmentation(
    parameters: PreprocessingParameters,
    image_key: str = "image",
    label_key: str = "label",
    boxes_key: str | None = None,
    foreground_probability: float = 0.4,
    class_weights: Sequence[float] | None = None,
    component_power: float | None = None,
) -> Compose:
    """Turn a preprocessed volume into a training patch: crop, flips, brightness and noise in the reference's order.

    :class:`RandBalancedCrop` describes the crop's probability, weights and power.
    """
    crop = (boxes_key, foreground_probability, class_weights, component_power)
    return Compose(
        [
            *training_patch(parameters, image_key, label_key, *crop),
            # Multiplies by 1.7–2.3: the factor is drawn from the intended range but added to 1. This looks like
            # an upstream mistake; it is kept for parity.
            RandScaleIntensityd(image_key, factors=(0.7, 1.3), prob=0.1),
            RandGaussianNoised(image_key, prob=0.1, mean=0.0, std=0.1, sample_std=True),
        ]
    )


def evaluation(parameters: PreprocessingParameters, image_key: str = "image", label_key: str = "label") -> Compose:
    """Crop a preprocessed volume to the region that the reference scores."""
    both = (image_key, label_key)
    return Compose([EnsureTyped(both, track_meta=False), CropToStrided(both, parameters.stride)])
