"""Many scans, one after the other, into one folder."""

from .batch import PATIENCE, Batch
from .folder import require_writable
from .start import ready, require_ready, start

__all__ = ["PATIENCE", "Batch", "ready", "require_ready", "require_writable", "start"]
