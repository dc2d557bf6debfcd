"""Write files atomically, compute hashes, read gzip files, lock directories, and check values read from files."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import UsageError

#: First characters of a cell that spreadsheets read as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
#: Endings of files that nobody means as the name of a directory.
FILES = (".dcm", ".ima", ".img", ".mgz", ".npy", ".npz", ".json", ".csv", ".html", ".png", ".pt", ".pth", ".zip")
#: MONAI evaluates text that begins so.
EXPRESSIONS = ("$", "@", "%")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it on success and removed otherwise.

    The temporary name keeps the ending (``.nii.gz``), since many writers choose the format by it. The name is
    always the same, so that the next try overwrites the remains of a killed one.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path}: is a device or pipe, not a file; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{path.name}")
    if temporary.is_symlink():  # nobody's file but this one may be written through it
        temporary.unlink()
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing_into(place: str | Path) -> Iterator[None]:
    """Report an operating system's error of the block as one of writing into ``place``, such as a full disk.

    Raises:
        UsageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{place}: cannot be written ({error.strerror or error}); check the free space and the permissions, then "
            "run it again; finished files are kept"
        ) from error


def require_writable(directory: str | Path) -> Path:
    """Test that the directory, or the one it will be created in, is writable, so that no results are lost.

    Raises:
        UsageError: if nothing can be written there.
    """
    if not str(directory).strip():
        raise UsageError("the output directory is empty; name one")
    directory = Path(directory)
    if directory.suffix.lower() in FILES and not directory.exists():
        raise UsageError(f"{directory}: the ending {directory.suffix} is that of a file; name a directory")
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    try:
        # An unnamed file: processes cannot collide on it, and it is never left behind.
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UsageError(
            f"{directory}: nothing can be written there ({error.strerror}); choose another directory, or "
            "make it writable"
        ) from error
    return directory


def require_space(path: str | Path, size: int) -> None:
    """Check that a file of ``size`` bytes can be written as ``path``, for writers that report a full disk badly.

    Raises:
        OSError: if the disk, a quota or a limit is too small.
    """
    try:
        with open(path, "wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
    finally:
        Path(path).unlink(missing_ok=True)


@contextmanager
def part_directory(beside: str | Path) -> Iterator[Path]:
    """Yield a new temporary directory beside a path, and remove it at the end.

    Its name is always the same, so that the next try removes the remains of a killed one.
    """
    beside = Path(beside)
    temporary = beside.with_name(f".part-{beside.name}.d")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_files(directory: str | Path, name: str) -> Iterator[Path]:
    """Yield a temporary directory, and move its files to the same places below ``directory`` on success.

    After an error, the files that were there stay as they are.

    Args:
        directory: directory of the files.
        name: name of what they belong to, for the temporary directory.

    Raises:
        UsageError: if a directory has the name of one of the files.
    """
    with part_directory(Path(directory) / name) as part:
        yield part
        files = sorted(path for path in part.rglob("*") if path.is_file())
        targets = [Path(directory) / written.relative_to(part) for written in files]
        if taken := [target for target in targets if target.is_dir()]:
            raise UsageError(f"{taken[0]}: is a directory where a file is to be written; remove it, or write elsewhere")
        for written, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(written, target)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` atomically as indented JSON with a final newline."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def text_cell(text: str) -> str:
    """Return ``text`` for a CSV file; an apostrophe keeps spreadsheets from reading a name as a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file."""
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

#: Exceptions of a truncated or damaged file, raised at the latest at its end, which contains the checksum.
DAMAGED = _damaged


def open_packed(path: str | Path) -> BinaryIO:
    """Open a gzip file as a stream; ``pip install 'kits-unet3d[fast]'`` makes it faster."""
    return _open(path, "rb")  # type: ignore[no-any-return]


def read_to_end(stream: BinaryIO) -> None:
    """Read and discard the rest of a stream, so that its checksum is verified."""
    while stream.read(1 << 20):
        pass


try:
    import fcntl
except ModuleNotFoundError:  # without it a second run is not kept out
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@contextmanager
def only_run(
    directory: str | Path, advice: str = "wait for it, or choose another directory", wait: bool = False
) -> Iterator[None]:
    """Create the directory and lock other runs out of it during the block; a killed run leaves no lock.

    Of a run with several processes, only one, such as rank 0, locks the directory.

    Args:
        directory: directory to create and lock.
        advice: what the user of the second run can do, for its error message.
        wait: wait until the other run has ended, instead of refusing.

    Raises:
        UsageError: if another run is writing there, or nothing can be written there.
    """
    directory = Path(directory)
    path = directory / LOCK_FILE
    while True:
        with ExitStack() as stack:
            # Before the file is made, since a signal can end the program as soon as it is there.
            stack.callback(_remove_lock, path)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(open(path, "a"))
            except OSError as error:
                raise UsageError(
                    f"{directory}: nothing can be written there ({error.strerror}); choose another directory, or "
                    "make it writable"
                ) from error
            if _lock(stream, path, wait):
                yield
                return
        if not wait:
            raise UsageError(f"{directory}: another run is writing there; {advice}")


def _remove_lock(path: Path) -> None:
    """Remove the lock file ``path``, if it was made and no other run has it."""
    with suppress(OSError), open(path, "r+") as stream:
        if _lock(stream, path, wait=False):
            path.unlink(missing_ok=True)


def _lock(stream: TextIO, path: Path, wait: bool) -> bool:
    """Lock the open file ``path`` and return whether no other run has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # The previous run may have removed it between our opening and locking, and a third run created another.
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # a file system without locks
        return True


def require_plain(value: Any, name: str) -> None:
    """Check that ``value`` is plain data that a configuration keeps as it is, however deeply nested.

    Args:
        value: None, numbers, strings, lists, tuples and dictionaries of these.
        name: path of the value, for the error message.

    Raises:
        ValueError: if it contains an object of another type, a number that is not finite, a string that MONAI
            evaluates, or a key that MONAI interprets (``_target_``, ``a::b``); the message contains the path.
    """
    if isinstance(value, str):
        if value.strip().startswith(EXPRESSIONS):
            raise ValueError(
                f"{name}: {value[:40]!r} begins with one of {' '.join(EXPRESSIONS)}, so MONAI would evaluate it"
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if (
                not isinstance(key, str)
                or key.strip().startswith((*EXPRESSIONS, "_", "+", "~"))
                or "::" in key
                or "#" in key
            ):
                raise ValueError(f"{name}: the key {str(key)[:40]!r} is not a plain name, so MONAI would interpret it")
            require_plain(item, f"{name}::{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            require_plain(item, f"{name}::{position}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not finite")
    elif value is not None and not isinstance(value, bool | int):
        raise ValueError(f"{name}: a {type(value).__name__} is not plain data")
