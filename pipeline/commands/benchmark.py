"""Run the command ``kits-unet3d benchmark``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..runtime.paths import config_file
from . import Outcome, require_checkpoints, require_existing

HELP = "measure speed and memory, and compare them with a baseline of stock MONAI"
EXAMPLE = "kits-unet3d benchmark windows loader -o path/to/benchmark"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = ("windows", "case", "train-step", "loader", "prepare", "memory", "all")
    parser.add_argument("kind", nargs="*", choices=kinds, default="all", help="what to measure")
    parser.add_argument(
        "-o", "--output-dir", required=True, help="directory for the table, JSON, plot and temporary data"
    )
    parser.add_argument(
        "--config",
        type=config_file,
        default=config_file("train"),
        help="bundle config that defines the network and the loss",
    )
    parser.add_argument(
        "--channels", type=int, nargs="+", default=None, help="channels per level, instead of the network's"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats of fast measurements; slow ones run at most 3 times"
    )
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes to check that everything runs; the numbers mean nothing"
    )
    parser.add_argument("--checkpoint", default=None, help="trained model to compare masks on --scans")
    parser.add_argument("--scans", default=None, help="directory of NIfTI scans for --checkpoint")
    parser.add_argument("--labels", default=None, help="directory of case_XXXXX/segmentation.nii.gz for --scans")


def run(arguments: argparse.Namespace) -> Outcome:

    # Checked before torch is imported, which takes seconds.
    require_checkpoints([arguments.checkpoint] if arguments.checkpoint else [])
    require_existing(arguments.scans, arguments.labels)

    from ..benchmark import Setting, run_benchmark, write_report
    from ..benchmark.report import draw, report, require_drawing, table
    from ..runtime.configuration import section
    from ..runtime.errors import UsageError

    if (arguments.checkpoint is None) != (arguments.scans is None):
        raise UsageError("--checkpoint and --scans need each other; give both")
    if arguments.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, got {arguments.repeats}")
    network, loss = section("network_factory", arguments.config), section("loss", arguments.config)
    if arguments.channels:
        network["channels"] = arguments.channels
    directory = Path(arguments.output_dir)
    setting = (Setting.quick if arguments.quick else Setting)(
        network,
        loss,
        directory / "files",
        checkpoint=_path(arguments.checkpoint),
        scans=_path(arguments.scans),
        labels=_path(arguments.labels),
    )
    if not arguments.quick:
        setting = replace(setting, repeats=arguments.repeats, slow=min(arguments.repeats, 3))
    # argparse refuses a list as the default of an argument with choices.
    kinds = [arguments.kind] if isinstance(arguments.kind, str) else arguments.kind
    drawn = not {"memory", "all"}.isdisjoint(kinds)
    if drawn:
        try:
            require_drawing()
        except UsageError as error:  # report it before hours of measurement, which run nevertheless
            print(f"benchmark.png was not written: {error}", flush=True)
            drawn = False
    rows = []
    for row in run_benchmark(kinds, setting):
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        write_report(rows, directory)  # keeps these results if a later measurement fails
    if drawn:
        draw(rows, directory / "benchmark.png")
    return Outcome(report(rows))


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)
