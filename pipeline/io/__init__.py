"""Find, read and validate images: NIfTI, NRRD, MetaImage, DICOM."""

from .discovery import Found, find_scans
from .grid import Grid
from .voxels import Admission, ReadOptions, Stored

__all__ = ["Admission", "Found", "Grid", "ReadOptions", "Stored", "find_scans"]
