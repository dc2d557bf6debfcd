"""Predict many scans, one after the other, into one directory."""

from .batch import PATIENCE, Batch, start
from .output_directory import ready

__all__ = ["PATIENCE", "Batch", "ready", "start"]
