"""From what a user names to a list of scans."""

from .names import ITK, NIFTI, ending_of, scan_name
from .search import Found, find_scans

__all__ = ["ITK", "NIFTI", "Found", "ending_of", "find_scans", "scan_name"]
