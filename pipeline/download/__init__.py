"""KiTS19 from where its authors publish it."""

from .dataset import Sources, case_ids, download_dataset, summary
from .fetch import Patience, fetch

__all__ = ["Patience", "Sources", "case_ids", "download_dataset", "fetch", "summary"]
