"""Run the command ``kits-unet3d picture``."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import Outcome, require_existing

HELP = "draw a scan, the ground truth and a prediction side by side"
EXAMPLE = "kits-unet3d picture path/to/scan.nii.gz --mask path/to/scan_seg.nii.gz -o picture.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scan", help="the scan that was segmented")
    parser.add_argument("--mask", required=True, help="predicted mask")
    parser.add_argument("--ground-truth", default=None, help="ground truth mask, if known")
    parser.add_argument("-o", "--output", required=True, help="PNG file to write")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..runtime.errors import UsageError
    from ..runtime.files import writing_into
    from ..runtime.output import show

    # Checked before torch is imported, which takes seconds.
    output = Path(arguments.output)
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: the picture is a PNG; give it a name that ends in .png")
    if output.is_dir():
        raise UsageError(f"{output}: is a directory; name a file in it")
    require_existing(arguments.scan, arguments.mask, arguments.ground_truth)

    from ..report.pictures import picture_of_files

    try:
        with writing_into(output):
            path = picture_of_files(arguments.scan, arguments.mask, output, arguments.ground_truth)
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[figures]'`") from error
    show(str(path))
    return Outcome({"file": str(path)})
