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
except ModuleNotFoundError:  # without it a second run is not kept out
    fcntl = None  # type: ignore[assignment]


def require_ready(folder: str | Path, page: bool | None = None, dicom_seg: bool = False) -> None:
    """Check the output directory and the required packages before a model is loaded.

    Raises:
        UsageError: if nothing can be written to ``folder``, or a required package is not installed.
    """
    require_writable(folder)
    if page:
        require_page()
    if dicom_seg:
        require_highdicom()


def ready(folder: str | Path, page: bool | None = None, dicom_seg: bool = False) -> None:
    """Call :func:`require_ready` for a configuration's run, which has no other way to report errors."""
    with errors_reported():
        require_ready(folder, page, dicom_seg)


def require_writable(folder: str | Path) -> Path:
    """Test that the directory, or the one it will be created in, is writable, so that no results are lost.

    Raises:
        UsageError: if nothing can be written there.
    """
    folder = Path(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        # An unnamed file: processes cannot collide on it, and it is never left behind.
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UsageError(
            f"{folder}: nothing can be written there ({error.strerror}); choose another directory, or make it writable"
        ) from error
    return folder


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Create the directory and lock other runs out of it during the block; a killed run leaves no lock.

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
            # The previous run may have removed it between our opening and locking, and a third run created another.
            alone = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            alone = False
        except OSError:  # a file system without locks
            alone = True
        if not alone:
            raise UsageError(
                f"{folder}: another run is writing there; wait for it, choose another directory, or distribute one run "
                "with torchrun"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
