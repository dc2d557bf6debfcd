"""Name scans by their files, notice changes of these, read lists, and recognise formats by their first bytes."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..runtime.errors import CaseError, UsageError
from ..runtime.files import file_hash

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
#: Ending of a mask by that of its scan, where they differ: always one file, and NIfTI for DICOM.
MASK_ENDINGS = {".mhd": ".mha", ".nhdr": ".nrrd", "": ".nii.gz"}
#: Endings of headers whose voxels are in another file of the same name.
HEADERS = (".mhd", ".nhdr")
#: Entry of such a header that names the other file.
DATA_FILE = re.compile(
    rb"^\s*(?:ElementDataFile\s*=|data ?file\s*:=?)\s*(\S[^\r\n]*?)\s*$", re.IGNORECASE | re.MULTILINE
)


def ending_of(path: Path) -> str:
    """Return the ending that identifies an image's format, in lower case; empty if not supported."""
    return next((ending for ending in (*NIFTI, *ITK) if path.name.lower().endswith(ending)), "")


def files_of(path: Path) -> list[Path]:
    """Return the files that make up a scan or a label map: several for a DICOM series or a header with its data."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if ending_of(path) in HEADERS and path.is_file():
        with open(path, "rb") as stream:
            named = DATA_FILE.findall(stream.read(1 << 16))
        others = {path.parent / os.fsdecode(name) for name in named}
        others |= {file for file in path.parent.iterdir() if file.name.startswith(f"{stem(path)}.")}
        return [path, *sorted(file for file in others if file != path and file.is_file())]
    return [path]


def content_hash(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file; for several files, that of their names and hashes."""
    if len(files) == 1:
        return file_hash(files[0])
    return hashlib.sha256("".join(f"{file.name} {file_hash(file)}\n" for file in files).encode()).hexdigest()


def state_of(files: Iterable[Path]) -> str:
    """Return a digest that changes if a file is replaced or written to, but not if its directory is moved.

    A program can set the time of modification back, but not that of the last change (ctime).
    """
    states = []
    for file in files:
        with suppress(OSError):
            status = file.stat()
            states.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return hashlib.sha256(repr(states).encode()).hexdigest()


def current_content(files: Sequence[Path], content: str, state: str) -> tuple[str, str]:
    """Return hash and state of files, given earlier ones; read them only if their state has changed.

    The hash is empty if they cannot be read.
    """
    now = state_of(files)
    if now == state:
        return content, now
    with suppress(OSError):
        if files and all(file.is_file() for file in files):
            return content_hash(files), now
    return "", now


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


GZIP = b"\x1f\x8b"
#: Maximum compression ratio of deflate.
BEST_RATIO = 1032
#: Bytes allowed after the voxels before a stream counts as endless.
TAIL = 1 << 20


def first_bytes(path: Path, count: int = 1024) -> bytes:
    """Return the first bytes of an image file.

    Raises:
        CaseError: if it does not exist, is not a regular file, is empty, or is an incomplete download.
    """
    if path.is_symlink() and not path.exists():
        raise CaseError(f"{path}: broken symbolic link; restore its target")
    if path.is_dir():
        raise CaseError(f"{path}: is a directory with the name of a file; name the scan inside it")
    if path.exists() and not path.is_file():
        raise CaseError(f"{path}: is a pipe or device, not a file; copy its content into a file")
    try:
        with open(path, "rb") as stream:
            head = stream.read(count)
    except FileNotFoundError as error:
        raise CaseError(f"{path}: no such file; check the name") from error
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}); check its permissions and disk") from error
    if not head:
        raise CaseError(f"{path}: the file is empty; copy or export it again")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CaseError(f"{path}: download incomplete, this is a web page, not an image; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise CaseError(f"{path}: download incomplete, this is a Git LFS pointer; fetch it with `git lfs pull`")
    return head


def require_bytes(path: Path, wanted: int, following: int, packed: bool) -> None:
    """Compare a header with the number of bytes after it, before any of them is read.

    Args:
        path: for the error message.
        wanted: bytes of voxels according to the header.
        following: bytes in the file after the header.
        packed: whether these are compressed.

    Raises:
        CaseError: if the bytes cannot hold so many voxels.
    """
    if wanted > (following * BEST_RATIO if packed else following):
        raise CaseError(
            f"{path}: its header declares {wanted} bytes of voxels, but only {following}"
            f"{' compressed' if packed else ''} bytes follow; it is truncated, copy or export it again"
        )


def require_no_more(path: Path, wanted: int, following: int, slice_bytes: int) -> list[str]:
    """Compare a header with the number of bytes after it; return a warning if there are a few too many.

    Too many by a slice or more indicate a wrong shape or voxel type, which would put voxels at wrong places. No format
    forbids a few extra bytes, and some programs fill the last block of a file.

    Raises:
        CaseError: if a slice or more follows the voxels.
    """
    more = following - wanted
    if more >= slice_bytes:
        raise CaseError(
            f"{path}: its header declares {wanted} bytes of voxels, but {following} follow; correct its shape or voxel "
            "type, or export it again"
        )
    return [f"{more} bytes after the voxels are ignored"] if more > 0 else []


def check_packed(path: Path, start: int, wanted: int) -> None:
    """Decompress gzip or zlib data to the end without keeping them, to verify length and checksum.

    Args:
        path: file with the data.
        start: offset of the data in the file.
        wanted: bytes expected after decompression.

    Raises:
        CaseError: if the data are truncated, damaged, too short or endless.
    """
    unpacker, count = zlib.decompressobj(wbits=47), 0  # 47 accepts gzip and zlib
    with open(path, "rb") as stream:
        stream.seek(start)
        try:
            while not unpacker.eof and count <= wanted + TAIL:
                data = unpacker.unconsumed_tail or stream.read(1 << 18)
                if not data:
                    raise CaseError(f"{path}: truncated, its compressed data end early; copy or export it again")
                count += len(unpacker.decompress(data, TAIL))
        except zlib.error as error:
            raise CaseError(f"{path}: damaged ({error}); copy or export it again") from error
    if count < wanted:
        raise CaseError(f"{path}: contains {count} bytes of voxels, its header declares {wanted}; export it again")
    if count > wanted:
        raise endless(path, wanted)


def endless(path: Path, wanted: int) -> CaseError:
    return CaseError(f"{path}: decompresses to more than the {wanted} bytes its header declares; export it again")
