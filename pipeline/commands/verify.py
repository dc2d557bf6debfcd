"""Run the command ``kits-unet3d verify``."""

from __future__ import annotations

import argparse
from collections import Counter

from . import Outcome

HELP = "compare preprocessed files with KiTS19's known MD5s, or with their own index"
EXAMPLE = "kits-unet3d verify --dataset-dir path/to/preprocessed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-dir", required=True, help="directory of preprocessed cases")
    parser.add_argument(
        "--against",
        choices=("auto", "kits19", "index"),
        default="auto",
        help="auto: kits19, unless it is another data set",
    )
    parser.add_argument("--all", action="store_true", help="list matching files too")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..data import verify
    from ..runtime.errors import UsageError

    files: dict[str, str] = {}
    for verdict in verify(arguments.dataset_dir, arguments.against):
        files[verdict.file] = verdict.outcome
        if arguments.all or verdict.outcome != "right":
            print(f"{verdict.outcome:<9} {verdict.file}")
    counts = Counter(files.values())
    if not counts["right"] and not counts["different"] and not counts["unknown"]:
        raise UsageError(f"{arguments.dataset_dir}: contains no preprocessed file; run `kits-unet3d prepare` first")
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "different", "missing", "unknown")))
    return Outcome({"files": files, "counts": counts}, 0 if set(counts) <= {"right"} else 1)
