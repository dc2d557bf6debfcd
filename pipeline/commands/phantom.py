"""Run the command ``kits-unet3d phantom``."""

from __future__ import annotations

import argparse

from ..runtime.errors import UsageError
from ..runtime.files import require_writable, writing_into
from . import Outcome, require_existing, whole_number

HELP = "make a data set of phantoms (simulated CT scans) in the layout of KiTS19 or KiTS23"
EXAMPLE = "kits-unet3d phantom --cases 10 -o path/to/phantoms"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=None, help="number of cases (default with --labels: all)")
    parser.add_argument("-o", "--output-dir", required=True, help="directory to write to")
    parser.add_argument("--labels", default=None, help="directory of real label maps to build the bodies around")
    parser.add_argument(
        "--bodies", type=int, default=1, help="with --labels: number of bodies around each training label map"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=None, metavar=("D", "H", "W"), help="size of the grid; default: random"
    )
    parser.add_argument(
        "--spacing-mm",
        type=float,
        nargs=3,
        default=None,
        metavar=("D", "H", "W"),
        help="voxel size; default: random",
    )
    parser.add_argument(
        "--contrast",
        choices=("enhanced", "wide"),
        default="enhanced",
        help="enhanced: late arterial phase, as in KiTS19, to portal venous phase; "
        "wide: no contrast medium, or early arterial to late phase",
    )
    parser.add_argument(
        "--cysts",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="label cysts as class 3, as in KiTS23; default: if --labels are KiTS23's",
    )
    parser.add_argument("--workers", type=whole_number(1), default=1, help="number of cases to make at a time")


def run(arguments: argparse.Namespace) -> Outcome:
    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.labels)
    require_writable(arguments.output_dir)

    from tqdm import tqdm

    from ..phantoms import write_dataset

    if arguments.cases is None and arguments.labels is None:
        raise UsageError(
            "give the number of cases to make (--cases), or the label maps to build them around (--labels)"
        )
    with writing_into(arguments.output_dir), tqdm(desc="phantoms", unit="case") as bar:

        def show(_: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        directories = write_dataset(
            arguments.output_dir,
            arguments.cases,
            labels=arguments.labels,
            bodies=arguments.bodies,
            seed=arguments.seed,
            shape=arguments.shape,
            spacing_mm=arguments.spacing_mm,
            contrast=arguments.contrast,
            cysts=arguments.cysts,
            workers=arguments.workers,
            progress=show,
        )
    print(f"{len(directories)} cases in {arguments.output_dir}")
    return Outcome({"output_dir": arguments.output_dir, "cases": [directory.name for directory in directories]})
