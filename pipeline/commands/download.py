"""Run the command ``kits-unet3d download``."""

from __future__ import annotations

import argparse

from . import Outcome, seconds, whole_number

HELP = "download the scans and labels of KiTS19 or KiTS23 from their authors' servers"
EXAMPLE = "kits-unet3d download -o path/to/kits19/data --cases 0-9"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output-dir", required=True, help="directory for case_XXXXX/imaging.nii.gz, segmentation.nii.gz"
    )
    parser.add_argument(
        "--dataset", choices=("kits19", "kits23"), default="kits19", help="kits23: 489 cases, with cysts"
    )
    parser.add_argument("--cases", nargs="+", default=(), help="such as 3 or 0-9; default: all labelled cases")
    parser.add_argument("--only", choices=("images", "labels"), default=None, help="only the images or only the labels")
    parser.add_argument("--parallel", type=whole_number(1), default=3, help="number of files to download at a time")
    parser.add_argument("--retries", type=whole_number(0), default=6, help="retries per file, with growing waits")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds to wait for a server's response")
    parser.add_argument("--images-url", default=None, help="mirror of the images: directory of case_00000.nii.gz, …")
    parser.add_argument(
        "--labels-url", default=None, help="mirror of the labels: directory of case_00000/segmentation.nii.gz, …"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    from dataclasses import replace

    from ..download import Patience, case_ids, challenge, download_dataset, summary
    from ..runtime.output import show

    mirrors = {"images": arguments.images_url, "labels": arguments.labels_url}
    cases = case_ids(arguments.cases, arguments.dataset)
    parts = (arguments.only,) if arguments.only else ("images", "labels")
    show(summary(arguments.output_dir, cases, parts, arguments.dataset))
    failed = download_dataset(
        arguments.output_dir,
        cases,
        parts,
        replace(
            challenge(arguments.dataset).sources, **{part: url for part, url in mirrors.items() if url is not None}
        ),
        Patience(arguments.timeout, arguments.retries),
        arguments.parallel,
        arguments.dataset,
    )
    for reason in failed.values():
        show(f"failed: {reason}", error=True)
    return Outcome({"output_dir": arguments.output_dir, "cases": cases, "failed": failed}, 1 if failed else 0)
