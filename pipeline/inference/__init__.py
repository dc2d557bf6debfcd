"""From a scan to a mask: reading, windows, restoring geometry, writing."""

from .autocast import AutocastInferer
from .bundle_io import MaskWriter, ReadScand, mask_saver, scan_preparation
from .predictor import Prediction, Predictor
from .reading import Grid, ReadOptions, find_scans
from .restore import RestoreToScand, labels_on_grid
from .results.mask import write_mask
from .scan import Scan, read_scan
from .windows import ReferenceWindows, reference_weights

__all__ = [
    "AutocastInferer",
    "Grid",
    "MaskWriter",
    "Prediction",
    "Predictor",
    "ReadOptions",
    "ReadScand",
    "ReferenceWindows",
    "RestoreToScand",
    "Scan",
    "find_scans",
    "labels_on_grid",
    "mask_saver",
    "read_scan",
    "reference_weights",
    "scan_preparation",
    "write_mask",
]
