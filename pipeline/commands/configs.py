"""Run the command ``kits-unet3d configs``."""

from __future__ import annotations

import argparse

from . import Outcome

HELP = "print the paths of the bundle's configurations as --config_file of MONAI's commands takes them"
EXAMPLE = "kits-unet3d configs train multi_device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="names such as train, and files of your own; default: list all")


def run(arguments: argparse.Namespace) -> Outcome:
    from pathlib import Path

    from ..runtime.errors import UsageError
    from ..runtime.paths import bundle_directory, config_file

    known = sorted((bundle_directory() / "configs").glob("*.json"))
    files = [config_file(name) for name in arguments.names] or [str(path) for path in known]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise UsageError(f"unknown configuration {missing[0]}; known are {', '.join(path.stem for path in known)}")
    if arguments.names:  # as MONAI's --config_file takes them
        print(files[0] if len(files) == 1 else str(files))
    else:
        print("\n".join(files))
    return Outcome({"files": files})
