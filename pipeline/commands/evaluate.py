"""Run the command ``kits-unet3d evaluate``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from . import Outcome, add_reading_options, reading_options, require_existing

if TYPE_CHECKING:
    from ..evaluation import Scoring

HELP = "score masks against ground truth on each scan's own grid: Dice, surface distances and lesions found"
EXAMPLE = "kits-unet3d evaluate --predictions path/to/masks --labels path/to/ground_truth -o scores.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predictions", required=True, help="directory of masks <case>_seg.nii.gz or <case>.nii.gz (.nii, .nrrd, …)"
    )
    parser.add_argument(
        "--labels",
        required=True,
        help="directory of case_XXXXX/segmentation.nii.gz or <case>.nii.gz, or nnU-Net's raw directory",
    )
    parser.add_argument(
        "--structures",
        nargs="+",
        default=None,
        help="kits19, kits23, or regions to score, each as name=classes; default: by the ground truth's data set",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out ground truths without a prediction; else they fail"
    )
    parser.add_argument("-o", "--output", default=None, help="JSON file for the scores by case and their means")
    parser.add_argument("--csv", default=None, help="CSV file for the same scores; default: beside --output")
    add_reading_options(parser, scans=False)


def run(arguments: argparse.Namespace) -> Outcome:

    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.predictions, arguments.labels)

    from ..data.datasets import named_classes
    from ..evaluation import scoring_of
    from ..evaluation.directories import score_directories, without_prediction
    from ..evaluation.lesions import detection_rows
    from ..io.scan_files import ending_of
    from ..runtime.errors import UsageError
    from ..runtime.files import writing_into
    from ..runtime.output import show

    options = reading_options(arguments)
    beside = Path(arguments.output).with_suffix(".csv") if arguments.output else None
    csv = Path(arguments.csv) if arguments.csv else beside
    if csv is not None and arguments.output and csv == Path(arguments.output):
        raise UsageError(f"{csv}: cannot be both JSON and CSV; give --output a name that ends in .json")
    for path in map(Path, filter(None, (arguments.output, csv))):
        if path.is_dir():
            raise UsageError(f"{path}: is a directory; name a file in it")
        if ending_of(path):
            raise UsageError(f"{path}: is the name of a mask; give the scores a name that ends in .json or .csv")
    given = arguments.structures
    classes = named_classes(arguments.labels)
    scoring = scoring_of(classes) if given is None else parse_structures(given)
    scores, failed = score_directories(
        arguments.predictions, arguments.labels, scoring=scoring, options=options, classes=classes
    )
    missing = without_prediction(arguments.predictions, arguments.labels)
    reasons = list(failed.values())
    if missing and not arguments.allow_missing:
        total = len(missing) + len(scores.by_case) + len(failed)
        reasons.append(
            f"{len(missing)} of {total} cases lack a prediction in {arguments.predictions} ({_named(missing)}); "
            "predict their scans, or score the others alone with --allow-missing"
        )
        failed |= {case_id: f"{case_id}: no prediction in {arguments.predictions}" for case_id in missing}
    # Write the files first, so that an error while printing cannot lose the scores.
    with writing_into(arguments.output or csv or "."):
        scores.write(arguments.output, csv, failed=failed, missing=missing)
    for line in table_rows({**scores.by_case, "mean": scores.mean} if scores.by_case else {}):
        show(line)
    for line in detection_rows(scores.detection) if scores.lesions else ():
        show(line)
    for name, count in scores.counted.items():
        if count < len(scores.by_case):
            show(f"{name} is undefined where exactly one mask is empty: mean of {count} of {len(scores.by_case)} cases")
    for reason in reasons:
        show(f"failed: {reason}", error=True)
    left_out = f"; {len(missing)} without prediction left out ({_named(missing)})"
    show(
        f"scored {len(scores.by_case)} cases, failed {len(failed)}"
        + (left_out if missing and arguments.allow_missing else "")
    )
    return Outcome({**scores.as_dict(), "failed": failed, "missing": missing}, 1 if failed else 0)


def _named(cases: Sequence[str], most: int = 3) -> str:
    """Return the first names, and an ellipsis if there are more."""
    return ", ".join([*cases[:most], *(["…"] if len(cases) > most else [])])


def parse_structures(given: Sequence[str]) -> Scoring:
    """Parse ``["kidney=1,2", …]`` into classes by structure, or return the scoring of ``["kits23"]``."""
    from ..evaluation import KITS19, KITS23, Scoring
    from ..runtime.errors import UsageError

    named = {"kits19": KITS19, "kits23": KITS23}
    if len(given) == 1 and given[0] in named:
        return named[given[0]]
    structures = {}
    for text in given:
        found = re.fullmatch(r"([^\W_][^=_]*)=([1-9]\d*(?:,[1-9]\d*)*)", text)
        if found is None:
            raise UsageError(
                f"--structures {text!r}: must be kits19, kits23, or a name without _ and its classes, such as "
                "kidney=1,2"
            )
        if found[1] in structures:
            raise UsageError(f"--structures {text!r}: {found[1]} is given twice; give each structure one name")
        structures[found[1]] = [int(number) for number in found[2].split(",")]
    return Scoring(structures)


def table_rows(scores: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    """Yield a row per case and structure, such as ``case_00000   kidney  dice 0.9315  hd95_mm 4.1200 …``, aligned."""
    rows: dict[tuple[str, str], list[str]] = {}
    for case_id, values in scores.items():
        for name, value in values.items():
            found = re.fullmatch(r"(.+?)_(dice|hd95_mm|surface_dice.*)", name)
            structure, of = found.groups() if found else (name, "")
            text = f"{of} {'none' if value is None else format(value, '.4f')}"
            rows.setdefault((case_id, structure), []).append(text)
    first = max([12, *(len(case_id) for case_id, _ in rows)])
    second = max([7, *(len(structure) for _, structure in rows)])
    widths = [max(map(len, column)) for column in zip_longest(*rows.values(), fillvalue="")]
    for (case_id, structure), cells in rows.items():
        aligned = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
        yield f"{case_id:<{first}} {structure:<{second}} {aligned}".rstrip()
