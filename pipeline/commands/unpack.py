"""Run the command ``kits-unet3d unpack``."""

from __future__ import annotations

import argparse

from . import Outcome, require_existing

HELP = "unpack a bundle's zip if every file matches its manifest"
EXAMPLE = "kits-unet3d unpack path/to/kits_unet3d.zip -o path/to/bundles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", help="zip file of `kits-unet3d export bundle`")
    parser.add_argument("-o", "--output-dir", required=True, help="directory to unpack into")


def run(arguments: argparse.Namespace) -> Outcome:

    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.archive)

    from ..export.bundle import unpack

    directory = unpack(arguments.archive, arguments.output_dir)
    print(directory)
    return Outcome({"directory": str(directory)})
