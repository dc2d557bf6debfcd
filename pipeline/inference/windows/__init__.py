"""Place sliding windows as the reference does, fewer of them, or only around the kidneys."""

from .coarse import CoarseToFine
from .even import EvenWindows
from .reference import ReferenceWindows, StockWindows, reference_weights
from .region import InBody, SkipAir, body_box
from .selection import DEFAULT, OPTIONS, ROIS, make_windows

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
