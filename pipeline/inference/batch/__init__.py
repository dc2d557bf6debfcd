"""Many scans, one after the other, into one folder."""

from .batch import Batch, require_writable
from .start import start

__all__ = ["Batch", "require_writable", "start"]
