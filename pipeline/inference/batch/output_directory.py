"""Check and lock the directory that a batch writes into, before a model is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ...runtime.errors import errors_reported
from ...runtime.lock import only_run as lock_for_one_run
from ...runtime.paths import require_writable
from ..results import Results


def ready(directory: str | Path, results: Results | None = None) -> None:
    """Check a configuration's output directory and packages before its model is loaded; it has no other way to report.

    The program ends with an error message and exit code 2 if nothing can be written, or a package is missing.
    """
    with errors_reported():
        require_writable(directory)
        (results or Results()).require_packages()


def only_run(directory: str | Path) -> AbstractContextManager[None]:
    """Lock other runs out of the output directory; see :func:`kits_unet3d.pipeline.runtime.lock.only_run`."""
    return lock_for_one_run(directory, "wait for it, choose another directory, or distribute one run with torchrun")
