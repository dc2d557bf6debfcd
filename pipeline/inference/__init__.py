"""Predict masks from scans: read, run sliding windows, restore geometry, write."""

from ..io import Grid, ReadOptions, find_scans
from ..io.mask import write_mask
from ..io.scan import Scan, read_scan
from ..masks.postprocessing import PostProcessing
from ..runtime.memory import available_bytes, memory_limit
from .backends import AutocastInferer, BackendInferer
from .mask_transforms import MaskWriter, PostProcessMaskd, mask_saver
from .predictor import Prediction, Predictor
from .results import Results
from .scan_transforms import LoadImageScand, OrientScand, RestoreToScand, labels_on_grid, scan_preprocessing
from .sliding_windows import ReferenceWindows, reference_weights
from .window_selection import make_windows

__all__ = [
    "AutocastInferer",
    "BackendInferer",
    "Grid",
    "LoadImageScand",
    "MaskWriter",
    "OrientScand",
    "PostProcessMaskd",
    "PostProcessing",
    "Prediction",
    "Predictor",
    "ReadOptions",
    "ReferenceWindows",
    "RestoreToScand",
    "Results",
    "Scan",
    "available_bytes",
    "find_scans",
    "labels_on_grid",
    "make_windows",
    "mask_saver",
    "memory_limit",
    "read_scan",
    "reference_weights",
    "scan_preprocessing",
    "write_mask",
]
