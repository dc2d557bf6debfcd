"""Augment training patches more widely than the reference, for few training cases."""

from __future__ import annotations

import math
from typing import Any

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)

from .chains import PreprocessingParameters, training_patch


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
