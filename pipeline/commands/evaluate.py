"""``kits-unet3d evaluate``"""

from __future__ import annotations

import argparse
import sys

HELP = "score masks against truth on each scan's own grid, as KiTS19 does"
EXAMPLE = "kits-unet3d evaluate --predictions path/to/masks --labels path/to/kits19/data --out scores.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", required=True, help="folder of masks <case>_seg.nii.gz or <case>.nii.gz")
    parser.add_argument("--labels", required=True, help="folder of case_XXXXX/segmentation.nii.gz")
    parser.add_argument("--out", default=None, help="JSON file for the scores by case")


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation.folders import score_folders
    from ..files import write_json

    scores, failed = score_folders(arguments.predictions, arguments.labels)
    rows = {**scores.by_case, "mean": scores.mean} if scores.by_case else {}
    for case_id, values in rows.items():
        print(f"{case_id:<12} " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    if arguments.out:
        write_json(arguments.out, {"cases": scores.by_case, "mean": scores.mean, "failed": failed})
    return 1 if failed else 0
