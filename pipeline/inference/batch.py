"""Predict many scans into one directory; an error in one scan does not stop the others."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..io import Found, ReadOptions, find_scans
from ..io.scan import Scan
from ..io.scan_files import current_content
from ..masks.plausibility import needs_review
from ..report.html_report import write_html_report
from ..report.summary import DONE, FAILED, REVIEW, Report
from ..runtime.distributed import from_first, gather_by_case, join, rank, share, world_size
from ..runtime.errors import CaseError, UsageError, errors_reported
from ..runtime.files import only_run, require_writable
from ..runtime.output import LogFile, device_line, lasting_output, show
from .predictor import Predictor
from .prefetch import ScansAhead
from .results import Results, anonymous, named_as_wanted, without_names

logger = logging.getLogger("kits_unet3d.inference")

#: Time that the processes of a batch wait for the last one.
PATIENCE = timedelta(days=30)
#: Advice to the user of a second run into a directory.
ADVICE = "wait for it, choose another directory, or distribute one run with torchrun"
#: Most scans that the last line names, and most paths after `left out`; the summary contains all.
MOST_NAMED, MOST_LEFT_OUT = 10, 3
#: Errors that any other result would meet too.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Batch:
    """Predict scans into a directory and record them in its report.

    Args:
        predictor: with the model, loaded once.
        directory: directory for masks and report. Results of an earlier run from the same scans, model and options are
            verified and kept.
        options: for reading.
        limit: bytes of memory a scan may need.
        results: files of each scan.
        overwrite: predict everything again.
        keep_names: keep patients' names in the results.
    """

    def __init__(
        self,
        predictor: Predictor,
        directory: str | Path,
        options: ReadOptions | None = None,
        limit: float = float("inf"),
        results: Results | None = None,
        overwrite: bool = False,
        keep_names: bool = False,
    ) -> None:
        self.predictor, self.directory, self.options = predictor, Path(directory), options or ReadOptions()
        self.limit, self.results = limit, results or Results()
        self.pictures = self.results.pictures
        self.overwrite, self.keep_names = overwrite, keep_names
        self.report = Report(directory)
        self._model = list(predictor.model.digests)
        self._identity: frozenset[str] = frozenset()
        self._unwritten: OSError | None = None
        self._disk_full: list[str] = []

    def run(self, scans: Sequence[Found], skipped: dict[str, str] | None = None) -> list[str]:
        """Predict all scans; return the names of those that failed.

        Under torchrun each process predicts its share and returns all failed names.

        Args:
            scans: from :func:`find_scans`.
            skipped: paths that the search left out, with reasons, for the report.

        Raises:
            UsageError: if another run is writing into the directory, or a file of another origin is in the place of
                the report.
            CaseError: at the end, if the report could not be written.
        """
        self._identity = frozenset() if self.keep_names else frozenset().union(*(s.identity for s in scans))
        named = [found if self.keep_names else anonymous(found, self._identity) for found in scans]
        self.report.skipped = {
            self._anonymised(path): self._anonymised(reason) for path, reason in (skipped or {}).items()
        }
        self.report.device = self.predictor.accelerator.describe()
        model = self.predictor.model
        self.report.model = model.for_report()
        self.report.options = {**self.predictor.settings, **vars(self.results)}
        self.report.part = rank() if world_size() > 1 else None
        with (
            only_run(self.directory, ADVICE) if rank() == 0 else nullcontext(),
            LogFile(self.directory, self._anonymised),
        ):
            logger.debug("device: %s", self.report.device)
            logger.debug("options: %s, %s", self.report.options, vars(self.options))
            if rank() == 0:
                model.announce()
                show(device_line(self.report.device))
                self._show_left_out()
                if not self.overwrite:
                    self.report.require_own()
                self._write_or_note(lambda: self.report.take_over({_source(found): found.name for found in named}))
            self.report.cases = from_first(self.report.cases)
            try:
                self._predict_all(self._pending(named))
            except KeyboardInterrupt:
                if self.report.part is None:  # else the other processes' parts are still being written
                    self._write_or_note(self.report.write)
                raise
            self.report.cases |= gather_by_case(self.report.added)
            if rank() == 0:
                self._unwritten = None  # the writes below include all that failed after a case
                self._write_or_note(self.report.write)
                if self.pictures:
                    self._write_or_note(lambda: write_html_report(self.report))
            ends = {found.name: self.report.cases[found.name]["outcome"] for found in named}
            review, failed = ([name for name, end in ends.items() if end == outcome] for outcome in (REVIEW, FAILED))
            for names, what, error in ((review, "need a review", False), (failed, "failed", True)):
                if names and rank() == 0:
                    more = f", … and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                    listed = ", ".join(names[:MOST_NAMED])
                    show(f"{len(names)} of {len(named)} scans {what} ({listed}{more})", error=error)
        if self._unwritten is not None and rank() == 0:
            raise CaseError(
                f"{self.directory}: the report could not be written ({self._unwritten.strerror}); free disk space, "
                "then run the same command again"
            )
        return failed

    def _show_left_out(self) -> None:
        if left_out := [f"{path}: {reason}" for path, reason in self.report.skipped.items()]:
            more = f"; and {len(left_out) - MOST_LEFT_OUT} more" if len(left_out) > MOST_LEFT_OUT else ""
            show(f"left out: {'; '.join(left_out[:MOST_LEFT_OUT])}{more}")

    def _write_or_note(self, write: Callable[[], Any]) -> None:
        """Write a file that the batch can continue without."""
        try:
            write()
        except OSError as error:
            self._unwritten = error

    def _pending(self, named: Sequence[Found]) -> list[Found]:
        """Return this process's share of the unfinished scans; all processes verify earlier masks together."""
        cases = gather_by_case({found.name: self._finished(found) for found in share(list(named))})
        self.report.cases |= (finished := {name: case for name, case in cases.items() if case})
        if rank() == 0 and finished:
            show(f"{len(finished)} of {len(named)} are finished already; --overwrite repeats them")
        return share([found for found in named if found.name not in finished])

    def _predict_all(self, pending: Sequence[Found]) -> None:
        began = time.monotonic()
        scans = ScansAhead(pending, self.options, self.predictor.model.parameters, self.limit)
        with closing(iter(scans)) as ahead:
            for number, (found, scan) in enumerate(ahead, start=1):
                case = self._predict_one(found, scan)
                logger.debug("%s: %s", found.name, {key: case[key] for key in case if key not in ("scan", "error")})
                self._write_or_note(lambda name=found.name, case=case: self.report.add(name, case))  # type: ignore[misc]
                left = time_left(time.monotonic() - began, number, len(pending))
                self._print_result(case, f"[{number}/{len(pending)}]", left)
                del scan
                if len(self._disk_full) > 1:  # one alone may be due to a large result
                    self._leave(pending[number:])
                    break

    def _leave(self, untried: Sequence[Found]) -> None:
        """Record scans as failed that are not tried, since no result could be written."""
        reason = self._disk_full[-1]
        for one in untried:
            case = {**self._record(one), "error": f"{self._anonymised(str(one.path))}: not tried ({reason})"}
            self._write_or_note(lambda name=one.name, case=case: self.report.add(name, case))  # type: ignore[misc]
        more = f"so {len(untried)} scans were not tried; free disk space, then run the same command again"
        show(f"{self.directory}: no result can be written ({reason}), {more}", error=True)

    def _record(self, found: Found) -> dict[str, Any]:
        """Return the record of a failed scan; it still lists the files of an earlier run, and their model."""
        earlier = self.report.cases.get(found.name, {"files": {}})
        there = {file: digest for file, digest in earlier["files"].items() if (self.directory / file).exists()}
        model = {"model": earlier["model"]} if there and "model" in earlier else {}
        scan = self._anonymised(str(found.path))
        return {"scan": scan, "outcome": FAILED, "files": there, "source": _source(found), **model}

    def _anonymised(self, text: str) -> str:
        return text if self.keep_names else without_names(text, self._identity)

    def _made_from(self, found: Found, content: str) -> str:
        """Digest all that a result depends on; ``content`` is the hash of the scan's files."""
        own = [self._model, vars(self.options), self.predictor.settings, vars(self.results), self.pictures]
        return hashlib.sha256(json.dumps([content, found.series, *own]).encode()).hexdigest()

    def _finished(self, found: Found) -> dict[str, Any] | None:
        """Return the record of a scan that need not be predicted again, with its present place; None for others."""
        case = self.report.cases.get(found.name, {})
        if self.overwrite or "content" not in case or not named_as_wanted(case, self._anonymised, self.keep_names):
            return None
        content, state = current_content(found.files, case["content"], case.get("state", ""))
        if not self.report.is_finished(found.name, self._made_from(found, content)):
            return None
        return case | {"scan": self._anonymised(str(found.path)), "source": _source(found), "state": state}

    def _predict_one(self, found: Found, scan: Scan | Exception) -> dict[str, Any]:
        began, case = time.monotonic(), self._record(found)
        earlier = self.report.cases.get(found.name, {"files": {}})
        same = earlier.get("source") == case["source"] or (found.content and earlier.get("content") == found.content)
        try:
            if earlier["files"] and not same and not self.overwrite:
                case["source"] = earlier.get("source")  # so that the next run does not assign them to this scan
                raise CaseError(
                    f"{found.path}: {', '.join(earlier['files'])} in {self.directory} is another scan's result; "
                    "use another directory, or --overwrite"
                )
            if isinstance(scan, Exception):
                raise scan
            if not self.overwrite:
                known = earlier["files"]
                self.results.require_replaceable(scan, self.directory, recorded=known, pictures=self.pictures)
            done = self.results.write(
                self.predictor, scan, self.directory, pictures=self.pictures, anonymised=self._anonymised
            )
            case["outcome"] = REVIEW if needs_review(done["checks"]) else DONE
            case |= {"made_from": self._made_from(found, found.content), "content": found.content}
            case |= {"state": found.state, "seconds": round(time.monotonic() - began, 1), "model": self.report.model}
            case |= done
            self._disk_full.clear()
        except Exception as error:  # an error in one scan must not stop the others
            text = str(error) if isinstance(error, CaseError | UsageError) else f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                text = f"its results cannot be written ({error.strerror})"
                self._disk_full.append(str(error.strerror))
            case["error"] = self._anonymised(text if str(found.path) in text else f"{found.path}: {text}")
            case["files"] = self._record(found)["files"]
            if case["files"]:
                case["error"] += "; earlier results of this name are kept"
            logger.debug("%s", case["error"], exc_info=None if isinstance(error, CaseError) else error)
        return case

    def _print_result(self, case: dict[str, Any], count: str, left: str) -> None:
        if case["outcome"] == FAILED:
            show(f"{count} failed: {case['error']}", error=True)
            return
        volumes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in case["volumes_ml"].items())
        # What concerns every scan is said once, when the model is read.
        own = (note for note in (*case["flags"], *case["warnings"]) if note != self.predictor.model.warning)
        notes = "".join(f" ({note})" for note in own)
        review = " review:" if case["outcome"] == REVIEW else ""
        show(f"{count}{review} {self.directory / next(iter(case['files']))}: {volumes}{notes}{left}")


def _source(found: Found) -> str:
    """Return a digest that identifies a scan under any name and any spelling of its path."""
    place = os.path.realpath(found.path)
    return hashlib.sha256(f"{place}\n{found.series}".encode("utf-8", "surrogateescape")).hexdigest()


def time_left(seconds: float, done: int, count: int) -> str:
    """Format the time left after ``done`` of ``count`` scans; empty for up to a minute."""
    left = seconds / done * (count - done)
    return f"; {left / 60:.0f} min left" if left > 60 else ""


def start(batch: Batch, source: str | Path | Iterable[str | Path]) -> None:
    """Predict all scans at ``source``, even if some of them fail.

    Ends the program with exit code 1 if scans failed. If no scans are found or another run is writing, it ends with an
    error message and exit code 2. A configuration's run has no other way to report to its user.

    Args:
        batch: with model, directory and options.
        source: files, directories, globs and lists, as :func:`find_scans` takes them.
    """
    skipped: dict[str, str] = {}
    with lasting_output(), errors_reported():
        scans = find_scans(source, batch.options, skipped)
        join(batch.predictor.accelerator, PATIENCE)
        failed = batch.run(scans, skipped)
    if failed:
        raise SystemExit(1)


def ready(directory: str | Path, results: Results | None = None) -> None:
    """Check a configuration's output directory and packages before its model is loaded.

    The program ends with an error message and exit code 2 if nothing can be written, or a package is missing.
    """
    with errors_reported():
        require_writable(directory)
        (results or Results()).require_packages()
