"""Download KiTS19 from its authors' servers."""

from .fetch import Patience, fetch
from .kits19 import Sources, case_ids, download_dataset, summary

__all__ = ["Patience", "Sources", "case_ids", "download_dataset", "fetch", "summary"]
