"""All files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .names import ending_of


def files_below(top: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """All files below ``top``; links are followed, but into no folder twice."""
    seen = {os.path.realpath(path) for path in (top, *top.absolute().parents)}
    for folder, folders, files in os.walk(top, followlinks=True, onerror=lambda e: _note(skipped, e)):
        for name in sorted(folders):
            path, real = os.path.join(folder, name), os.path.realpath(os.path.join(folder, name))
            if real in seen:
                skipped[path] = "a link back into what was searched already"
                folders.remove(name)
            elif name.startswith("."):
                folders.remove(name)
            elif ending_of(Path(name)):
                skipped[path] = "is a folder with the name of a file; what is in it was searched"
            seen.add(real)
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_file():
                yield file
            elif file.is_symlink() and not file.exists():
                skipped[str(file)] = "a link to nothing, or to itself"
            else:
                skipped[str(file)] = "is a pipe or device and no file"


def _note(skipped: dict[str, str], error: OSError) -> None:
    skipped[str(error.filename)] = f"cannot be opened ({error.strerror})"
