"""Define the subcommands of ``kits-unet3d``, and the options and checks that they share.

A subcommand imports its modules only when it runs, so that help is quick. It checks paths before it imports torch,
which takes seconds, so that a wrong path is reported at once.
"""

from __future__ import annotations

import argparse
import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import UsageError

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


class NoCheckpointError(ValueError):
    """Report that a path is not that of a checkpoint."""

    exit_code = 3


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


def require_existing(*paths: str | Path | None) -> None:
    """Check that files or directories exist; None is left out.

    Raises:
        UsageError: for the first one that does not.
    """
    for path in paths:
        if path is not None and not Path(path).exists():
            raise UsageError(f"{path}: no such file or directory; check the name")


def require_checkpoints(paths: Iterable[str | Path]) -> None:
    """Check that files exist and are not zips of a bundle; their content is not read.

    Raises:
        NoCheckpointError: for the first one that is not a checkpoint.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise NoCheckpointError(
                f"{path}: no such checkpoint; train one first, or name another with --checkpoint"
                if not path.is_dir()
                else f"{path}: is a directory; name the checkpoint in it, such as {path / 'models' / 'model.pt'}"
            )
        if zipfile.is_zipfile(path):  # as torch's own files are
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("configs/metadata.json") for name in names):
                raise NoCheckpointError(
                    f"{path}: is a bundle's zip, not a checkpoint; unpack it with `kits-unet3d unpack`, then name its "
                    "models/model.pt"
                )
