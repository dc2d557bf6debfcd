"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed otherwise.

    The temporary name keeps the ending (``.nii.gz``), which many writers choose the format by. It is
    the same for every try, so that what a killed process left behind is overwritten by the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """``content`` as indented JSON with a final newline, whole."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_open: Callable[[str | Path, str], Any] = gzip.open
_damaged: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
try:
    from isal import igzip, isal_zlib

    _open, _damaged = igzip.open, (*_damaged, isal_zlib.error)  # type: ignore[arg-type]
except ModuleNotFoundError:
    pass

#: What a truncated or damaged file raises, at the latest when it has been read to its end, where the checksum is.
DAMAGED = _damaged


def open_packed(path: str | Path) -> BinaryIO:
    """The content of a gzip file as a stream; ``pip install 'kits-unet3d[fast]'`` makes it faster."""
    return _open(path, "rb")  # type: ignore[no-any-return]


def read_to_end(stream: BinaryIO) -> None:
    """Reads what is left without keeping it, so that the checksum is verified."""
    while stream.read(1 << 20):
        pass
