"""Download KiTS19 or KiTS23 from their authors' servers."""

from .fetch import Patience, fetch
from .kits import Sources, case_ids, challenge, download_dataset, summary

__all__ = ["Patience", "Sources", "case_ids", "challenge", "download_dataset", "fetch", "summary"]
