"""Synthetic abdominal CT in KiTS19's layout, so that everything runs without a patient's data."""

from __future__ import annotations

from .dataset import write_dataset
from .phantom import Phantom, make_phantom, phantom_around

__all__ = ["Phantom", "make_phantom", "phantom_around", "write_dataset"]
