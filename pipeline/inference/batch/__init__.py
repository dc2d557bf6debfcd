"""Many scans, one after the other, into one folder."""

from .batch import PATIENCE, Batch, start
from .output_directory import ready, require_ready, require_writable

__all__ = ["PATIENCE", "Batch", "ready", "require_ready", "require_writable", "start"]
