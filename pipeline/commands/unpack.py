"""Run the command ``kits-unet3d unpack``."""

from __future__ import annotations

import argparse

from . import Outcome

HELP = "unpack a bundle's zip if every file matches its manifest"
EXAMPLE = "kits-unet3d unpack path/to/kits_unet3d.zip --out path/to/bundles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", help="zip file of `kits-unet3d export bundle`")
    parser.add_argument("--out", required=True, help="directory to unpack into")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..export.archive import unpack

    folder = unpack(arguments.archive, arguments.out)
    print(folder)
    return Outcome({"folder": str(folder)})
