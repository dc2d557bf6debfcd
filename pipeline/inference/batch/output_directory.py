"""Check and lock the directory that a batch writes into, before a model is loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...io.dicom.segmentation import require_highdicom
from ...report.html_report import require_html_report
from ...runtime.errors import UsageError, errors_reported

try:
    import fcntl
except ModuleNotFoundError:  # without it a second run is not kept out
    fcntl = None  # type: ignore[assignment]


def require_ready(directory: str | Path, html_report: bool | None = None, dicom_seg: bool = False) -> None:
    """Check the output directory and the required packages before a model is loaded.

    Raises:
        UsageError: if nothing can be written to ``directory``, or a required package is not installed.
    """
    require_writable(directory)
    if html_report:
        require_html_report()
    if dicom_seg:
        require_highdicom()


def ready(directory: str | Path, html_report: bool | None = None, dicom_seg: bool = False) -> None:
    """Call :func:`require_ready` for a configuration's run, which has no other way to report errors."""
    with errors_reported():
        require_ready(directory, html_report, dicom_seg)


def require_writable(directory: str | Path) -> Path:
    """Test that the directory, or the one it will be created in, is writable, so that no results are lost.

    Raises:
        UsageError: if nothing can be written there.
    """
    directory = Path(directory)
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


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Create the directory and lock other runs out of it during the block; a killed run leaves no lock.

    Raises:
        UsageError: if another run is writing there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = directory / ".lock"
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
                f"{directory}: another run is writing there; wait for it, choose another directory, or distribute one "
                "run with torchrun"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
