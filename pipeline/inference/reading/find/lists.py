"""Lists of scans."""

from __future__ import annotations

import csv
from pathlib import Path

from ....errors import UsageError

LISTS = (".txt", ".csv")
#: Columns of a CSV list that hold the scans; the first column otherwise.
COLUMNS = ("scan", "image", "path", "file")


def is_list(path: Path) -> bool:
    """Whether it is a file with the ending of a list."""
    return path.suffix.lower() in LISTS and path.is_file()


def read_list(path: Path) -> dict[int, str]:
    """The entries of a list, by line; empty lines and those that begin with ``#`` are none.

    Raises:
        UsageError: if it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no usable list ({error})") from error
    entries = {n: line.strip() for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    if path.suffix.lower() == ".csv":
        return _column(entries)
    return entries


def _column(lines: dict[int, str]) -> dict[int, str]:
    """The cells of a CSV list that hold the paths, by line; a line that cannot be split is kept as it is."""
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
