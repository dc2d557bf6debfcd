"""What became of every scan of a batch, as JSON and as a table."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.files import file_hash, whole_file, write_json

SUMMARY, TABLE, PARTS = "summary.json", "summary.csv", ".report-*.json"
DONE, FAILED = "done", "failed"


class Report:
    """The report in an output folder, which later runs continue; written whole after every case.

    Attributes:
        cases: what is known of each.
        added: those of them that this process has done.
        part: number of this process where several share the work; each then keeps a part of its own, and
            :meth:`write` by the first makes the whole of them.
        skipped: what was left out, and why.
        device: on which they were done last.
        model: what is known of the model that did them last: ``datasets`` it was trained on, and a ``warning`` or null.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cases: dict[str, dict[str, Any]] = {}
        self.added: dict[str, dict[str, Any]] = {}
        self.part: int | None = None
        self.skipped: dict[str, str] = {}
        self.device: dict[str, Any] = {}
        self.model: dict[str, Any] = {}

    def take_over(self, named: Mapping[str, str]) -> None:
        """Continues an earlier report, the parts of a run that was killed among it.

        Args:
            named: what each source is called now; what is known of it by another name is dropped.
        """
        parts = sorted(self.folder.glob(PARTS))
        for earlier in (self.folder / SUMMARY, *parts):
            self.cases |= _cases(earlier)
        self.cases = {n: case for n, case in self.cases.items() if named.get(case.get("source", ""), n) == n}
        if parts:  # before this run's own take their place
            self.write()

    def is_finished(self, name: str, made_from: str) -> bool:
        """Whether the case was done from exactly this, and its mask is as it was written."""
        case = self.cases.get(name, {})
        if case.get("outcome") != DONE or case.get("made_from") != made_from:
            return False
        return all(
            (self.folder / file).is_file() and file_hash(self.folder / file) == digest
            for file, digest in case["files"].items()
        )

    def add(self, name: str, case: dict[str, Any]) -> None:
        """Notes a case and saves; in this process's part, where there are several."""
        self.cases[name] = self.added[name] = case
        if self.part is None:
            self.write()
        else:
            write_json(self.folder / PARTS.replace("*", str(self.part)), {"cases": self.added})

    @property
    def summary(self) -> dict[str, int]:
        """How many cases had which outcome."""
        counts = Counter(case["outcome"] for case in self.cases.values())
        return {outcome: counts[outcome] for outcome in (DONE, FAILED)}

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        cases = dict(sorted(self.cases.items()))
        about = {"summary": self.summary, "device": self.device, "model": self.model}
        return {**about, "cases": cases, "left_out": self.skipped}

    def write(self) -> None:
        """Writes ``summary.json`` and ``summary.csv``, and drops the parts they were made of."""
        report = self.as_dict()
        cases = report["cases"]
        write_json(self.folder / SUMMARY, report)
        classes = dict.fromkeys(name for case in cases.values() for name in case.get("volumes_ml", {}))
        with (
            whole_file(self.folder / TABLE) as temporary,
            # A path may hold bytes that are no text.
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            table = csv.writer(stream)
            sizes = [f"{name}_{of}" for name in classes for of in _of_a_class({}, name)]
            table.writerow(["case", "outcome", *sizes, "flags", "warnings", "error", "seconds", "scan"])
            for name, case in cases.items():
                values = [value for c in classes for value in _of_a_class(case, c).values()]
                texts = ["; ".join(case.get(key, [])) for key in ("flags", "warnings")]
                rounded = [round(v, 3) if isinstance(v, float) else v for v in values]
                seconds, error = case.get("seconds", ""), case.get("error", "")
                table.writerow([name, case["outcome"], *rounded, *texts, error, seconds, case["scan"]])
        for part in self.folder.glob(PARTS):
            part.unlink()


def _of_a_class(case: dict[str, Any], name: str) -> dict[str, Any]:
    """The columns of the table on one class; nothing in them for a case that failed."""
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


def _cases(path: Path) -> dict[str, dict[str, Any]]:
    """Of an earlier report; one that is damaged only means that its cases are done again."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        return {name: case for name, case in cases.items() if {"outcome", "scan", "files"} <= case.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
