"""From a scan to a mask: reading, windows, restoring geometry, writing."""

from .autocast import AutocastInferer
from .bundle_io import MaskWriter, ScanReader, mask_saver, scan_preparation
from .predictor import Prediction, Predictor
from .restore import RestoreToScand, labels_on_grid
from .scan import Scan, find_scans, read_scan, write_mask
from .windows import ReferenceWindows, reference_weights

__all__ = [
    "AutocastInferer",
    "MaskWriter",
    "Prediction",
    "Predictor",
    "ReferenceWindows",
    "RestoreToScand",
    "Scan",
    "ScanReader",
    "find_scans",
    "labels_on_grid",
    "mask_saver",
    "read_scan",
    "reference_weights",
    "scan_preparation",
    "write_mask",
]
