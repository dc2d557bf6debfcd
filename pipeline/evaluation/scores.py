"""Tabulate scores by case and compute their means."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import text_cell, whole_file, write_json


@dataclass
class Scores:
    """Hold scores by case, each case with the same names.

    A score may be None where it is undefined for a case, such as the distance to an empty mask. Its mean leaves such
    a case out, and ``counted`` is the number of the other cases.
    """

    by_case: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(next(iter(self.by_case.values()), {}))

    @property
    def mean(self) -> dict[str, float | None]:
        """Return the mean of each score over the cases that have it, equally weighted; None if no case has it."""
        return {name: float(np.mean(values)) if values else None for name, values in self._defined().items()}

    @property
    def counted(self) -> dict[str, int]:
        """Count the cases behind each mean."""
        return {name: len(values) for name, values in self._defined().items()}

    def _defined(self) -> dict[str, list[float]]:
        columns = {name: [scores[name] for scores in self.by_case.values()] for name in self.names}
        return {name: [value for value in values if value is not None] for name, values in columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return ``cases``, ``mean`` and ``counted``, for JSON."""
        return {"cases": self.by_case, "mean": self.mean, "counted": self.counted}

    def write(self, json_path: str | Path | None, csv_path: str | Path | None, **more: Any) -> None:
        """Write the table as JSON (:meth:`as_dict` and ``more``) and as CSV, each as a whole file.

        The CSV has a row per case with ``case_id`` and the scores, then the rows ``mean`` and ``counted``. An undefined
        score is null in the JSON and empty in the CSV.
        """
        if json_path is not None:
            write_json(json_path, {**self.as_dict(), **more})
        if csv_path is not None:
            self._write_csv(csv_path)

    def _write_csv(self, path: str | Path) -> None:
        rows: dict[str, Mapping[str, float | None]] = {**self.by_case, "mean": self.mean, "counted": self.counted}
        with (
            whole_file(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, ["case_id", *self.names], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"case_id": text_cell(case_id), **scores} for case_id, scores in rows.items())
