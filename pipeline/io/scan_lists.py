"""Name scans and their results, and read lists of scans."""

from __future__ import annotations

import csv
from pathlib import Path

from ..runtime.errors import UsageError

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
#: Ending of a mask by that of its scan, where they differ: always one file, and NIfTI for DICOM.
MASK_ENDINGS = {".mhd": ".mha", ".nhdr": ".nrrd", "": ".nii.gz"}


def ending_of(path: Path) -> str:
    """Return the ending that identifies an image's format, in lower case; empty if not supported."""
    return next((ending for ending in (*NIFTI, *ITK) if path.name.lower().endswith(ending)), "")


def scan_name(path: Path) -> str:
    """Return the file name without image endings; the directory's for KiTS19's ``case_00000/imaging.nii.gz``."""
    path = path.absolute() if path.name not in ("", "..") else path.resolve()
    return path.parent.name if _named_by_directory(path) else stem(path)


def stem(path: Path) -> str:
    """Return the file name without image endings."""
    return path.name[: len(path.name) - len(ending_of(path))]


def _named_by_directory(path: Path) -> bool:
    return stem(path) == "imaging"


def directories_of_results(path: Path, directories: tuple[str, ...]) -> tuple[str, ...]:
    """Return the directories of a scan's results, without a directory that gives the scan its name."""
    return directories[:-1] if _named_by_directory(path) else directories


LISTS = (".txt", ".csv")
#: Columns of a CSV list that hold the scans; the first column otherwise.
COLUMNS = ("scan", "image", "path", "file")


def is_list(path: Path) -> bool:
    """Return whether a path is a file with the ending of a list."""
    return path.suffix.lower() in LISTS and path.is_file()


def read_list(path: Path) -> dict[int, str]:
    """Return the entries of a list by line, without empty lines and lines that begin with ``#``.

    Raises:
        UsageError: if it cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not a usable list ({error})") from error
    entries = {n: line.strip() for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    if path.suffix.lower() == ".csv":
        return _column(entries)
    return entries


def _column(lines: dict[int, str]) -> dict[int, str]:
    """Return the paths of a CSV list by line; keep a line that cannot be split unchanged."""
    rows = {}
    for number, line in lines.items():
        try:
            rows[number] = [cell.strip() for cell in next(csv.reader([line]))]
        except csv.Error:
            rows[number] = [line]
    first = next(iter(rows), 0)
    header = [cell.lower() for cell in rows.get(first, [])]
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is not None:
        del rows[first]
    return {number: row[column or 0] for number, row in rows.items() if len(row) > (column or 0)}
