"""Run the command ``kits-unet3d prepare``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..runtime.errors import UsageError
from ..runtime.files import require_writable, write_json
from ..runtime.output import show
from ..runtime.paths import config_file
from . import Outcome, add_reading_options, reading_options, require_existing, whole_number

HELP = "preprocess raw cases as the MLPerf reference does: resample, clip, normalise and pad"
EXAMPLE = "kits-unet3d prepare --data-dir path/to/kits19/data -o path/to/preprocessed --workers 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        required=True,
        help="directory of case_XXXXX/imaging.nii.gz, segmentation.nii.gz, or a data list (JSON)",
    )
    parser.add_argument("-o", "--output-dir", default=None, help="directory for the preprocessed cases and their index")
    parser.add_argument(
        "--fingerprint",
        default=None,
        metavar="FILE",
        help="preprocess nothing; write classes, voxel size and HU statistics of the training cases as a --config",
    )
    parser.add_argument(
        "--config",
        type=config_file,
        default=None,
        help="bundle config with preprocessing parameters that replace the reference's, such as kits23",
    )
    parser.add_argument("--workers", type=whole_number(1), default=1, help="number of cases to preprocess at a time")
    parser.add_argument(
        "--max-memory", default=None, help="start no further case beyond this, such as 8GB; default: the free memory"
    )
    add_reading_options(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    from ..runtime.memory import LIBRARIES, parse_memory

    if arguments.output_dir is None and arguments.fingerprint is None:
        raise UsageError("the following arguments are required: -o/--output-dir, or --fingerprint")
    if arguments.fingerprint is not None:
        without = {"output-dir": None, "config": None, "workers": 1, "max-memory": None}
        given = [name for name, value in without.items() if getattr(arguments, name.replace("-", "_")) != value]
        if given:
            raise UsageError(f"--{given[0]} has no use with --fingerprint, which preprocesses nothing; leave it out")
    if arguments.fingerprint is not None and Path(arguments.fingerprint).is_dir():
        raise UsageError(f"{arguments.fingerprint}: is a directory; name a file, such as fingerprint.json")
    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.data_dir, arguments.config)
    require_writable(arguments.output_dir or Path(arguments.fingerprint).parent)
    # Subtract the libraries' memory from a given limit; free memory already excludes it.
    limit = None if arguments.max_memory is None else parse_memory(arguments.max_memory) - LIBRARIES
    if arguments.fingerprint is not None:
        return _fingerprint(arguments)

    from ..data import Index, classes_in, preprocess_dataset
    from ..runtime.configuration import parameters_of

    parameters = parameters_of(arguments.config, classes_in(arguments.data_dir))
    options = reading_options(arguments)
    failed = preprocess_dataset(arguments.data_dir, arguments.output_dir, parameters, arguments.workers, limit, options)
    for reason in failed.values():
        show(f"failed: {reason}", error=True)
    cases = sorted(Index.read(arguments.output_dir).cases)
    return Outcome({"output_dir": arguments.output_dir, "cases": cases, "failed": failed}, 1 if failed else 0)


def _fingerprint(arguments: argparse.Namespace) -> Outcome:
    from ..data.fingerprint import fingerprint

    overlay, failed = fingerprint(arguments.data_dir, reading_options(arguments))
    for reason in failed.values():
        show(f"failed: {reason}", error=True)
    write_json(Path(arguments.fingerprint), overlay)
    for name, value in overlay.items():
        show(f"{name}: {json.dumps(value)}")
    show(f"{arguments.fingerprint}: look at the values, then give the file to prepare and train with --config")
    return Outcome({"file": arguments.fingerprint, **overlay, "failed": failed}, 1 if failed else 0)
