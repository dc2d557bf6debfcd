"""Check and lock the directory that a batch writes into, before a model is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ...io.dicom.segmentation import require_highdicom
from ...report.html_report import require_html_report
from ...runtime.errors import errors_reported
from ...runtime.lock import only_run as lock_for_one_run
from ...runtime.paths import require_writable


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
    """Call :func:`require_ready` for a configuration's run, which cannot report errors otherwise."""
    with errors_reported():
        require_ready(directory, html_report, dicom_seg)


def only_run(directory: str | Path) -> AbstractContextManager[None]:
    """Lock other runs out of the output directory; see :func:`kits_unet3d.pipeline.runtime.lock.only_run`."""
    return lock_for_one_run(directory, "wait for it, choose another directory, or distribute one run with torchrun")
