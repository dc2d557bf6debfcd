"""Read DICOM: file headers, the series of a directory, one series as a volume."""

from .headers import Slice, is_dicom, read_slice
from .series import DicomDirectory, Series, sort_series
from .volume import read_dicom

__all__ = ["DicomDirectory", "Series", "Slice", "is_dicom", "read_dicom", "read_slice", "sort_series"]
