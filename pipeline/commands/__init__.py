"""Define the subcommands of ``kits-unet3d``; each imports its modules only when it runs, so that help is quick."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..io import ReadOptions


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a command.

    Attributes:
        results: for ``--json``: plain numbers, strings, lists and dictionaries; None from a process that leaves
            the output to another.
        exit_code: 0 for success, 1 if some cases failed.
    """

    results: dict[str, Any] | None
    exit_code: int = 0


def whole_number(least: int) -> Callable[[str], int]:
    """Return a parser of an option's whole number, which must be at least ``least``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return number

    return parse


def seconds(text: str) -> float:
    """Parse an option's time in seconds, which must be positive."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return number


def add_reading_options(parser: argparse.ArgumentParser, scans: bool = True, dicom: bool = False) -> None:
    """Add the options that correct a header.

    Args:
        scans: the files hold HU.
        dicom: one series is read, not a data set.
    """
    reading = parser.add_argument_group("correct missing or wrong header values")
    if dicom:
        reading.add_argument("--series", default=None, help="DICOM series by number, UID or description, or all")
        reading.add_argument("--allow-gaps", action="store_true", help="fill in missing DICOM slices")
    reading.add_argument(
        "--volume", type=whole_number(1), default=None, help="number of the volume in 4-D files, from 1"
    )
    if scans:
        offset = "value to add to every voxel; 0 states that the values are HU"
        reading.add_argument("--hu-offset", type=float, default=None, help=offset)
    reading.add_argument("--spacing", type=float, nargs=3, default=None, metavar="MM", help="voxel size along X, Y, Z")
    reading.add_argument(
        "--trust", choices=("sform", "qform"), default=None, help="NIfTI form to use if sform and qform disagree"
    )


def reading_options(arguments: argparse.Namespace) -> ReadOptions:
    """Return the options of :func:`add_reading_options` as they were given."""
    from ..io import ReadOptions

    return ReadOptions(
        arguments.volume,
        getattr(arguments, "hu_offset", None),
        None if arguments.spacing is None else tuple(arguments.spacing),
        arguments.trust,
        getattr(arguments, "series", None),
        getattr(arguments, "allow_gaps", False),
    )
