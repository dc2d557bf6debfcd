"""Check and lock the directory that a batch writes into, before a model is loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...io.dicom.segmentation import require_highdicom
from ...report.html_report import require_page
from ...runtime.errors import UsageError, errors_reported

try:
    import fcntl
except ModuleNotFoundError:  # a system without it, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]


def require_ready(folder: str | Path, page: bool | None = None, dicom_seg: bool = False) -> None:
    """Asks all that can be asked before a model is loaded.

    Raises:
        UsageError: if nothing can be written to ``folder``, or what is asked for needs what is not installed.
    """
    require_writable(folder)
    if page:
        require_page()
    if dicom_seg:
        require_highdicom()


def ready(folder: str | Path, page: bool | None = None, dicom_seg: bool = False) -> None:
    """:func:`require_ready` for a configuration's run, which has no other way to speak to its user."""
    with errors_reported():
        require_ready(folder, page, dicom_seg)


def require_writable(folder: str | Path) -> Path:
    """Tries the folder, or the one it will be made in, so that nobody waits for results that cannot be kept.

    Raises:
        UsageError: if nothing can be written there.
    """
    folder = Path(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        # Without a name of its own, so that processes do not meet, and none is left behind.
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UsageError(
            f"{folder}: nothing can be written there ({error.strerror}); choose another folder, or free it"
        ) from error
    return folder


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it for the time of the block; a killed run keeps out nobody.

    Raises:
        UsageError: if another run is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = folder / ".lock"
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it between our opening and locking, and a third have made another.
            alone = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            alone = False
        except OSError:  # a file system that locks nothing
            alone = True
        if not alone:
            raise UsageError(
                f"{folder}: another run is writing there; wait for it, choose another folder, or share one run out "
                "with torchrun"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
