"""From a scan to a mask: reading, windows, restoring geometry, writing."""

from ..memory import available_bytes, memory_limit
from .autocast import AutocastInferer
from .bundle_io import LoadImageScand, MaskWriter, OrientScand, mask_saver, scan_preparation
from .engines import EngineInferer
from .masks.postprocessing import PostProcessing
from .predictor import Prediction, Predictor
from .reading import Grid, ReadOptions, find_scans
from .restore import RestoreToScand, labels_on_grid
from .results.mask import write_mask
from .scan import Scan, read_scan
from .windows import ReferenceWindows, make_windows, reference_weights

__all__ = [
    "AutocastInferer",
    "EngineInferer",
    "Grid",
    "LoadImageScand",
    "MaskWriter",
    "OrientScand",
    "PostProcessing",
    "Prediction",
    "Predictor",
    "ReadOptions",
    "ReferenceWindows",
    "RestoreToScand",
    "Scan",
    "available_bytes",
    "find_scans",
    "labels_on_grid",
    "make_windows",
    "mask_saver",
    "memory_limit",
    "read_scan",
    "reference_weights",
    "scan_preparation",
    "write_mask",
]
