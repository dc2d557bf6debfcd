"""Make synthetic abdominal CT in KiTS19's layout, so that no patient data are needed."""

from __future__ import annotations

from .case import Phantom, make_phantom, phantom_around
from .dataset import write_dataset

__all__ = ["Phantom", "make_phantom", "phantom_around", "write_dataset"]
