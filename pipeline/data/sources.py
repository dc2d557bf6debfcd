"""Compare the raw files of a data set with each other and with the index of preprocessed cases."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from ..io.scan_files import content_hash, files_of
from ..runtime.errors import UsageError
from .cases import RawCase
from .datasets import KITS19, KITS23, kits23_splits, known_cases
from .index import Index

logger = logging.getLogger("kits_unet3d.data")


def source_hash(path: Path) -> str:
    """Return the SHA-256 of a scan or a label map; for several files, that of their names and hashes."""
    return content_hash(files_of(path))


def source_hashes(case: RawCase) -> dict[str, str]:
    """Return the hashes of a case's ``image`` and ``label``."""
    return {"image": source_hash(case.image), "label": source_hash(case.label)}


def source_state(case: RawCase) -> list[tuple[int, ...]]:
    """Return what changes if a file of a case is replaced or written to; nothing for a missing file."""
    states: list[tuple[int, ...]] = []
    for file in (*files_of(case.image), *files_of(case.label)):
        try:
            status = file.stat()
        except OSError:
            continue
        states.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return states


def require_distinct(cases: Sequence[RawCase]) -> None:
    """Check that no scan is in both splits under two names; warn if one is twice in a split.

    Only files of equal size are read.

    Raises:
        UsageError: naming two cases with the same scan.
    """
    by_size: dict[int, list[RawCase]] = defaultdict(list)
    for case in cases:
        if case.image.is_file():
            by_size[case.image.stat().st_size].append(case)
    for alike in by_size.values():
        seen: dict[str, RawCase] = {}
        for case in alike if len(alike) > 1 else ():
            first = seen.setdefault(source_hash(case.image), case)
            if first.split != case.split:
                raise UsageError(
                    f"{case.image}: is the same scan as {first.image}, but {first.case_id} is for {first.split} and "
                    f"{case.case_id} for {case.split}; keep one of them"
                )
            if first is not case:
                logger.warning("%s: is the same scan as %s; it counts twice", case.image, first.image)


def forget_unlisted(index: Index, cases: Sequence[RawCase]) -> None:
    """Remove the cases from the index that the data set does not list, and log their names.

    KiTS19 and KiTS23 list their cases even where no file is left, so that raw files may be deleted after preprocessing.
    """
    always: dict[str, Collection[str]] = {KITS19: known_cases(), KITS23: kits23_splits()}
    listed = {case.case_id for case in cases} | set(always.get(index.name, ()))
    for case_id in [case_id for case_id in index.cases if case_id not in listed]:
        del index.cases[case_id]
        logger.warning("%s: %s is not listed any more and leaves the index; its arrays stay", index.directory, case_id)
