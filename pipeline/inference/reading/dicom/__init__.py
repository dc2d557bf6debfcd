"""DICOM: headers of files, series of a folder, one series as a volume."""

from .series import DicomFolder, Series, sort_series
from .slices import Slice, is_dicom, read_slice
from .volume import read_dicom

__all__ = ["DicomFolder", "Series", "Slice", "is_dicom", "read_dicom", "read_slice", "sort_series"]
