"""What stands between a configuration and ``batch.run()``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ...distributed import join
from ...errors import UsageError
from ..reading import find_scans
from ..results.page import require_page
from .batch import Batch, require_writable


def start(batch: Batch, source: str | Path | Iterable[str | Path]) -> None:
    """Predicts what is found at ``source``; all of it, whatever is wrong with one scan.

    Ends the program with exit code 1 if scans failed, and with one sentence and 2 if there are none or nothing
    can be written; a configuration's run has no other way to speak to its user.

    Args:
        batch: with model, folder and options.
        source: files, folders, globs and lists, as :func:`find_scans` takes them.
    """
    skipped: dict[str, str] = {}
    try:
        scans = find_scans(source, batch.options, skipped)
        require_writable(batch.folder)
        if batch.page:
            require_page()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    join(batch.predictor.accelerator)
    if batch.run(scans, skipped):
        raise SystemExit(1)
