"""Run the command ``kits-unet3d verify``."""

from __future__ import annotations

import argparse
from collections import Counter

from . import Outcome, require_existing

HELP = "compare preprocessed files with KiTS19's known MD5s, or with their own index"
EXAMPLE = "kits-unet3d verify --dataset-dir path/to/preprocessed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-dir", required=True, help="directory of preprocessed cases")
    parser.add_argument(
        "--against",
        choices=("auto", "kits19", "index"),
        default="auto",
        help="auto: index for another data set or other preprocessing parameters, else kits19",
    )
    parser.add_argument("--all", action="store_true", help="list every file, matching and missing ones too")


#: Most missing files that are listed without ``--all``.
LISTED = 10


def run(arguments: argparse.Namespace) -> Outcome:

    require_existing(arguments.dataset_dir)  # before torch is imported, which takes seconds

    from ..data import verify
    from ..runtime.errors import UsageError
    from ..runtime.output import show

    files: dict[str, str] = {}
    missing: list[str] = []
    for verdict in verify(arguments.dataset_dir, arguments.against):
        files[verdict.file] = verdict.outcome
        if verdict.outcome == "missing":
            missing.append(verdict.file)
        elif arguments.all or verdict.outcome != "right":
            show(f"{verdict.outcome:<9} {verdict.file}")
    counts = Counter(files.values())
    if not counts["right"] and not counts["different"] and not counts["unknown"]:
        raise UsageError(f"{arguments.dataset_dir}: contains no preprocessed file; run `kits-unet3d prepare` first")
    listed = missing if arguments.all or len(missing) <= LISTED else missing[: LISTED // 2]
    for file in listed:
        show(f"missing   {file}")
    if len(listed) < len(missing):
        show(f"missing   … and {len(missing) - len(listed)} more (--all lists them)")
    show(", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "different", "missing", "unknown")))
    return Outcome({"files": files, "counts": counts}, 0 if set(counts) <= {"right"} else 1)
