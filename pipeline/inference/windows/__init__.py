"""Where the network looks: the reference's sliding windows, fewer of them, or only around the kidneys."""

from .body import InBody, SkipAir, body_box
from .choice import DEFAULT, OPTIONS, ROIS, make_windows
from .coarse import CoarseToFine
from .even import EvenWindows
from .reference import ReferenceWindows, reference_weights
from .stock import StockWindows

__all__ = [
    "DEFAULT",
    "OPTIONS",
    "ROIS",
    "CoarseToFine",
    "EvenWindows",
    "InBody",
    "ReferenceWindows",
    "SkipAir",
    "StockWindows",
    "body_box",
    "make_windows",
    "reference_weights",
]
