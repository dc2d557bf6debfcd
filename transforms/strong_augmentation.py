"""Augment training patches more strongly than the reference: for accuracy, or for few training cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from monai.transforms import (
    CastToTyped,
    CenterSpatialCropd,
    Compose,
    OneOf,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)

from .chains import PreprocessingParameters, training_patch

#: Margin on each side of a patch, as a fraction of its size, so that rotation brings in real voxels.
MARGIN = 1 / 8


def strong_augmentation(
    parameters: PreprocessingParameters,
    image_key: str = "image",
    label_key: str = "label",
    **crop: Any,
) -> Compose:
    """Turn a preprocessed volume into a training patch; replaces :func:`~.chains.augmentation`.

    The balanced crop and the flips are the same, but the crop adds a margin of an eighth of the patch on each side. The
    rotation uses this margin and removes it. These steps follow, with their probabilities:

    - rotation about all axes by U(-20°, 20°) and scale U(0.75, 1.3) per axis (0.5);
    - blur of σ ~ U(0.5, 1) voxels (0.15); resampling to a grid up to twice as coarse and back (0.15);
    - contrast (distance from the patch's mean) × U(0.7, 1.3) (0.3);
    - brightness + U(-0.3, 0.3) standard deviations (0.3);
    - gamma U(0.7, 1.5) (0.3), also on the inverted patch (0.1), with mean and spread kept;
    - noise of σ ~ U(0, 0.2) (0.2).

    Beyond the margin and the volume the border is repeated. A patch of 64×80×80 takes about 25 ms on one core.

    ``crop`` takes ``boxes_key``, ``foreground_probability``, ``class_weights`` and ``component_power`` of
    :func:`~.chains.augmentation`.

    Source: the kinds of steps, and roughly the numbers, of nnU-Net, Isensee et al., https://arxiv.org/abs/1809.10486.
    """
    both = (image_key, label_key)
    margin = tuple(int(n * MARGIN) for n in parameters.roi_size)
    sigma = (0.5, 1.0)
    rotated = RandAffined(
        both,
        spatial_size=parameters.roi_size,
        prob=1.0,
        rotate_range=(math.radians(20),) * 3,
        scale_range=((-0.25, 0.3),) * 3,
        mode=("bilinear", "nearest"),
        padding_mode="border",
    )
    return Compose(
        [
            *training_patch(parameters, image_key, label_key, margin=margin, **crop),
            # RandAffined(prob=0.5) would also resample patches that it does not rotate, at half the cost of a rotation.
            OneOf([rotated, CenterSpatialCropd(both, parameters.roi_size)], weights=(0.5, 0.5)),
            CastToTyped(label_key, np.uint8),  # rotated labels are float32, and a batch has one type
            RandGaussianSmoothd(image_key, sigma, sigma, sigma, prob=0.15),
            RandSimulateLowResolutiond(image_key, prob=0.15, zoom_range=(0.5, 1.0)),
            RandScaleIntensityFixedMeand(image_key, factors=0.3, prob=0.3),
            RandShiftIntensityd(image_key, offsets=0.3, prob=0.3),
            RandAdjustContrastd(image_key, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            RandAdjustContrastd(image_key, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandGaussianNoised(image_key, prob=0.2, mean=0.0, std=0.2, sample_std=True),
        ]
    )


def wide_augmentation(
    parameters: PreprocessingParameters,
    image_key: str = "image",
    label_key: str = "label",
    **crop: Any,
) -> Compose:
    """Turn a preprocessed volume into a training patch; replaces :func:`~.chains.augmentation`.

    It varies few, often repeated cases by rotation, scale, blur and contrast. The balanced crop and the flips are the
    same. These steps follow, with their probabilities:

    - rotation about all axes by U(-15°, 15°) and scale U(0.8, 1.25) per axis (0.5);
    - blur of σ ~ U(0.5, 1) voxels (0.1); resampling to a grid up to twice as coarse and back (0.1);
    - intensity × U(0.75, 1.25) (0.3); + U(-0.3, 0.3) standard deviations (0.3);
    - gamma U(0.7, 1.5) (0.3); noise of σ ~ U(0, 0.2) (0.2).

    The kinds of steps are nnU-Net's. The numbers are milder, because the patch is cropped before it is rotated and its
    border is repeated.

    ``crop`` takes ``boxes_key``, ``foreground_probability``, ``class_weights`` and ``component_power`` of
    :func:`~.chains.augmentation`.
    """
    both = (image_key, label_key)
    turn = (math.radians(15),) * 3
    return Compose(
        [
            *training_patch(parameters, image_key, label_key, **crop),
            RandAffined(
                both,
                prob=0.5,
                rotate_range=turn,
                scale_range=((-0.2, 0.25),) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianSmoothd(image_key, (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.1),
            RandSimulateLowResolutiond(image_key, prob=0.1, zoom_range=(0.5, 1.0)),
            RandScaleIntensityd(image_key, factors=0.25, prob=0.3),
            RandShiftIntensityd(image_key, offsets=0.3, prob=0.3),
            RandAdjustContrastd(image_key, prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised(image_key, prob=0.2, mean=0.0, std=0.2, sample_std=True),
        ]
    )
