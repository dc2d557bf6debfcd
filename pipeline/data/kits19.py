"""Facts about KiTS19 as MLPerf uses it: which case is in which split, and what each prepared file must be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = "KiTS19"
#: Cases of each split, on which MLPerf's schedule and score rest.
SIZES = {"training": 168, "evaluation": 42}


@dataclass(frozen=True)
class KnownCase:
    """What is known of one of the 210 labelled cases: its split, and the MD5 of its two prepared files."""

    split: str
    image_md5: str
    label_md5: str


@cache
def known_cases() -> dict[str, KnownCase]:
    """The 210 cases by identifier (``case_00000`` …); 168 for training, 42 for evaluation."""
    content = json.loads((Path(__file__).parent / "kits19_checksums.json").read_text(encoding="utf-8"))
    return {case_id: KnownCase(split, *sums) for split, cases in content.items() for case_id, sums in cases.items()}
