"""Run the command ``kits-unet3d evaluate``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import Outcome

HELP = "score masks against ground truth on each scan's own grid: KiTS19's Dice and surface distances"
EXAMPLE = "kits-unet3d evaluate --predictions path/to/masks --labels path/to/kits19/data -o scores.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predictions", required=True, help="directory of masks <case>_seg.nii.gz or <case>.nii.gz (.nii, .nrrd, …)"
    )
    parser.add_argument("--labels", required=True, help="directory of case_XXXXX/segmentation.nii.gz or <case>.nii.gz")
    parser.add_argument(
        "--structures",
        nargs="+",
        default=["kidney=1,2", "tumour=2"],
        help="regions to score, each as name=classes, for data sets other than KiTS19",
    )
    parser.add_argument("-o", "--output", default=None, help="JSON file for the scores by case and their means")
    parser.add_argument("--csv", default=None, help="CSV file for the same scores; default: beside --output")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..evaluation.directories import score_directories
    from ..runtime.errors import UsageError

    beside = Path(arguments.output).with_suffix(".csv") if arguments.output else None
    csv = Path(arguments.csv) if arguments.csv else beside
    if csv is not None and arguments.output and csv == Path(arguments.output):
        raise UsageError(f"{csv}: cannot be both JSON and CSV; give --output a name that ends in .json")
    scores, failed = score_directories(arguments.predictions, arguments.labels, parse_structures(arguments.structures))
    for case_id, values in scores.by_case.items():
        for line in table_rows(case_id, values):
            print(line)
    if scores.by_case:
        for line in table_rows("mean", scores.mean):
            print(line)
    for name, count in scores.counted.items():
        if count < len(scores.by_case):
            print(
                f"{name} is undefined where exactly one mask is empty: mean of {count} of {len(scores.by_case)} cases"
            )
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    scores.write(arguments.output, csv, failed=failed)
    return Outcome({**scores.as_dict(), "failed": failed}, 1 if failed else 0)


def parse_structures(given: Iterable[str]) -> dict[str, list[int]]:
    """Parse ``["kidney=1,2", …]`` into classes by structure."""
    from ..runtime.errors import UsageError

    structures = {}
    for text in given:
        found = re.fullmatch(r"([^\W_][^=_]*)=([1-9]\d*(?:,[1-9]\d*)*)", text)
        if found is None:
            raise UsageError(f"--structures {text!r}: must be a name without _ and its classes, such as kidney=1,2")
        structures[found[1]] = [int(number) for number in found[2].split(",")]
    return structures


def table_rows(case_id: str, scores: Mapping[str, float | None]) -> Iterator[str]:
    """Yield a row per structure, such as ``case_00000   kidney  dice 0.9315  hd95_mm 4.12 …``."""
    for structure in dict.fromkeys(name.split("_")[0] for name in scores):
        named = {name.removeprefix(f"{structure}_"): v for name, v in scores.items() if name.startswith(structure)}
        cells = "  ".join(
            f"{name} {'none' if value is None else format(value, '.4f')}" for name, value in named.items()
        )
        yield f"{case_id:<12} {structure:<7} {cells}"
