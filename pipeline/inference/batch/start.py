"""What stands between a configuration and ``batch.run()``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...distributed import join
from ...errors import CaseError, UsageError
from ..reading import find_scans
from ..results.dicom_seg import require_highdicom
from ..results.page import require_page
from .batch import PATIENCE, Batch
from .folder import require_writable


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
    with _told():
        require_ready(folder, page, dicom_seg)


@contextmanager
def _told() -> Iterator[None]:
    """An error that a user can do something about becomes one sentence and its exit code."""
    try:
        yield
    except (UsageError, CaseError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


def start(batch: Batch, source: str | Path | Iterable[str | Path]) -> None:
    """Predicts what is found at ``source``; all of it, whatever is wrong with one scan.

    Ends the program with exit code 1 if scans failed, and with one sentence and 2 if there are none or another
    run is writing; a configuration's run has no other way to speak to its user.

    Args:
        batch: with model, folder and options.
        source: files, folders, globs and lists, as :func:`find_scans` takes them.
    """
    skipped: dict[str, str] = {}
    with _told():
        scans = find_scans(source, batch.options, skipped)
        join(batch.predictor.accelerator, PATIENCE)
        failed = batch.run(scans, skipped)
    if failed:
        raise SystemExit(1)
