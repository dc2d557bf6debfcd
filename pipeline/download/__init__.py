"""KiTS19 from where its authors publish it."""

from .fetch import Patience, fetch
from .kits19 import Sources, case_ids, download_dataset, summary

__all__ = ["Patience", "Sources", "case_ids", "download_dataset", "fetch", "summary"]
