"""Record the outcome of every scan of a batch, as JSON and as a table."""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..runtime.errors import UsageError
from ..runtime.files import file_hash, text_cell, whole_file, write_json

SUMMARY, TABLE, PARTS = "summary.json", "summary.csv", ".report-*.jsonl"
#: Share of the time that rewriting the whole summary may take; records are appended in between.
REWRITING = 0.05
#: Outcomes of a case; one to review has a mask whose measurements are far from those of real label maps.
DONE, REVIEW, FAILED = "done", "review", "failed"
#: First columns of the table.
COLUMNS = ("case", "outcome")
REQUIRED = {"outcome", "scan", "files"}
NUMBER = (int, float)
#: Forms of the entries that later runs read again: a type, or types; a list of a form; a dictionary with its keys, or
#: with any keys (``"*"``).
FORMS: dict[str, Any] = {
    "outcome": str, "scan": str, "files": {"*": str}, "error": str, "flags": [str], "warnings": [str], "source": str,
    "content": str, "state": str, "made_from": str, "seconds": NUMBER, "volumes_ml": {"*": NUMBER},
    "counts": {"*": NUMBER}, "mean_hu": {"*": (*NUMBER, type(None))},
    "sides_ml": {"*": {"right": NUMBER, "left": NUMBER}},
    "structures": [
        {"class": str, "side": str, "volume_ml": NUMBER, "longest_axial_mm": NUMBER, "mean_hu": NUMBER}
    ],
    "contrast": (dict, type(None)),
}  # fmt: skip
#: The form of a case's model, which earlier versions lack.
MODEL = {"description": str, "datasets": [str], "warning": (str, type(None)), "classes": [str]}


class Report:
    """Hold the report in an output directory, which later runs continue.

    Every case is appended to a hidden file at once. The summary is rewritten atomically, after each case as long as
    that is quick, and at the end.

    Attributes:
        cases: record of each case, with the ``model`` that made its files.
        added: records added by this process.
        part: number of this process if several share the work. Each then writes its own part, and
            :meth:`write` of the first process merges them.
        skipped: inputs left out, with the reasons.
        device: device of the last run.
        model: model of the last run: its ``description``, the ``datasets`` it was trained on, a ``warning`` or null,
            and the names of its ``classes``, background first.
        options: options of the last run.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.cases: dict[str, dict[str, Any]] = {}
        self.added: dict[str, dict[str, Any]] = {}
        self.part: int | None = None
        self.skipped: dict[str, str] = {}
        self.device: dict[str, Any] = {}
        self.model: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self._due = 0.0

    def require_own(self) -> None:
        """Check that the files of the report are absent, or from this program as far as they can be read.

        Raises:
            UsageError: naming the one of another origin.
        """
        table, summary = self.directory / TABLE, self.directory / SUMMARY
        foreign = []
        with suppress(OSError, ValueError), open(table, encoding="utf-8", errors="replace") as stream:
            foreign += [table] if not stream.readline().startswith(",".join(COLUMNS)) else []
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(summary.read_text(encoding="utf-8"))
            foreign += [summary] if not (isinstance(content, dict) and "cases" in content) else []
        if foreign:
            raise UsageError(
                f"{foreign[0]}: exists already and is not a report of this program; use another directory, or "
                "--overwrite"
            )

    def take_over(self, named: Mapping[str, str]) -> None:
        """Continue an earlier report, including the parts of a run that was killed.

        Args:
            named: current name of each source; its records under another name are dropped.
        """
        parts = sorted(self.directory.glob(PARTS))
        self.cases |= _cases(self.directory / SUMMARY)
        for part in parts:
            self.cases |= _records(part)
        self.cases = {n: case for n, case in self.cases.items() if named.get(case.get("source", ""), n) == n}
        if parts:  # before this run overwrites them
            self.write()

    def is_finished(self, name: str, made_from: str) -> bool:
        """Return whether the case was made from exactly this input and its files are unchanged."""
        case = self.cases.get(name, {})
        if case.get("outcome") not in (DONE, REVIEW) or case.get("made_from") != made_from:
            return False
        return all(
            (self.directory / file).is_file() and file_hash(self.directory / file) == digest
            for file, digest in case["files"].items()
        )

    def add(self, name: str, case: dict[str, Any]) -> None:
        """Add a case: append it to this process's part, and rewrite the summary if that is quick."""
        self.cases[name] = self.added[name] = case
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / PARTS.replace("*", str(self.part or 0)), "a", encoding="utf-8") as stream:
            # Start a new line, since a full disk may have cut the last record short.
            stream.write("\n" + json.dumps({name: case}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        began = time.monotonic()
        if self.part is None and began >= self._due:
            self.write()
            ended = time.monotonic()
            self._due = ended + (ended - began) / REWRITING if ended - began > 0.5 else 0.0

    @property
    def models(self) -> list[tuple[dict[str, Any], list[str]]]:
        """Return the models that made files, each with its cases; the model of an earlier version's case is empty."""
        found: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for name, case in sorted(self.cases.items()):
            if case["files"]:
                model = case.get("model", {})
                found.setdefault(json.dumps(model, sort_keys=True), (model, []))[1].append(name)
        return list(found.values())

    @property
    def summary(self) -> dict[str, int]:
        """Count the cases by outcome."""
        counts = Counter(case["outcome"] for case in self.cases.values())
        return {outcome: counts[outcome] for outcome in (DONE, REVIEW, FAILED)}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        cases = dict(sorted(self.cases.items()))
        about = {
            "summary": self.summary,
            "program": f"kits-unet3d {version('kits-unet3d')}",
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "model": self.model,
            "options": self.options,
            "device": self.device,
        }
        return {**about, "cases": cases, "left_out": self.skipped}

    def write(self) -> None:
        """Write ``summary.json`` and ``summary.csv``, and delete the merged parts."""
        report = self.as_dict()
        cases = report["cases"]
        write_json(self.directory / SUMMARY, report)
        classes = dict.fromkeys(name for case in cases.values() for name in case.get("volumes_ml", {}))
        with (
            whole_file(self.directory / TABLE) as temporary,
            # A path may hold bytes that are not text.
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            table = csv.writer(stream)
            sizes = [f"{name}_{of}" for name in classes for of in _of_a_class({}, name)]
            table.writerow([*COLUMNS, *sizes, "flags", "warnings", "error", "seconds", "scan", "model"])
            for name, case in cases.items():
                values = [value for c in classes for value in _of_a_class(case, c).values()]
                texts = ["; ".join(case.get(key, [])) for key in ("flags", "warnings")]
                rounded = [round(v, 3) if isinstance(v, float) else v for v in values]
                seconds, error = case.get("seconds", ""), case.get("error", "")
                texts = [text_cell(text) for text in (*texts, error)]
                scan, model = text_cell(case["scan"]), text_cell(case.get("model", {}).get("description", ""))
                table.writerow([text_cell(name), case["outcome"], *rounded, *texts, seconds, scan, model])
        for part in self.directory.glob(PARTS):
            part.unlink()


def _of_a_class(case: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the table's columns for one class; their values are None for a failed case."""
    sides = case.get("sides_ml", {}).get(name, {})
    longest = [part["longest_axial_mm"] for part in case.get("structures", []) if part["class"] == name]
    return {
        "ml": case.get("volumes_ml", {}).get(name),
        "right_ml": sides.get("right"),
        "left_ml": sides.get("left"),
        "parts": case.get("counts", {}).get(name),
        "longest_axial_mm": max(longest, default=None),
        "mean_hu": case.get("mean_hu", {}).get(name),
    }


def _is_record(case: Any) -> bool:
    """Return whether an entry of an earlier report has the form that this program writes."""
    if not isinstance(case, dict) or not case.keys() >= REQUIRED:
        return False
    if not all(_has_form(case[key], form) for key, form in FORMS.items() if key in case):
        return False
    measured = {frozenset(case.get(key, {})) for key in ("volumes_ml", "sides_ml", "counts")}
    return len(measured) == 1 and (case.get("model", {}) == {} or _has_form(case["model"], MODEL))


def _has_form(value: Any, form: Any) -> bool:
    """Return whether a value from JSON has a form of :data:`FORMS`."""
    if isinstance(form, list):
        return isinstance(value, list) and all(_has_form(one, form[0]) for one in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        wanted = dict.fromkeys(value, form["*"]) if "*" in form else form
        return all(key in value and _has_form(value[key], of) for key, of in wanted.items())
    return isinstance(value, form) and not isinstance(value, bool)


def _records(path: Path) -> dict[str, dict[str, Any]]:
    """Read the cases of a part; a line that a killed run did not finish is left out."""
    cases: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            cases |= {name: case for name, case in json.loads(line).items() if _is_record(case)}
        except (ValueError, AttributeError, RecursionError):
            continue
    return cases


def _cases(path: Path) -> dict[str, dict[str, Any]]:
    """Read the cases of an earlier report; the cases of a damaged one are processed again."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        return {name: case for name, case in cases.items() if _is_record(case)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
