"""Provide MONAI transforms of the MLPerf KiTS19 training recipe; each works alone in any MONAI pipeline."""

from .balanced_crop import RandBalancedCrop, RandBalancedCropd, component_boxes
from .chains import PreprocessingParameters, augmentation, evaluation, normalisation, preprocessing
from .evaluation_crop import CropToStride, CropToStrided
from .resample import ResampleToSpacing, ResampleToSpacingd
from .strong_augmentation import strong_augmentation, wide_augmentation

__all__ = [
    "CropToStride",
    "CropToStrided",
    "RandBalancedCrop",
    "RandBalancedCropd",
    "PreprocessingParameters",
    "ResampleToSpacing",
    "ResampleToSpacingd",
    "augmentation",
    "component_boxes",
    "evaluation",
    "normalisation",
    "preprocessing",
    "strong_augmentation",
    "wide_augmentation",
]
