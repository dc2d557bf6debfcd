"""Run an experiment: trainings at an equal time, their scores, tables and figures.

`python scripts/compare PLAN.yaml LABELS OUT [--minutes 10] [--seeds 1 2 3] [--recipes …] [--variants …]`

What is finished is kept, so an experiment can be stopped and started again. Experiments with the same data may share
OUT, and then share trainings.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from plan import read_plan, require_known
from protocols import PROTOCOLS
from steps import heading

from kits_unet3d.pipeline.runtime.errors import UsageError, errors_reported


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/compare", description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path, help="YAML file, such as scripts/compare/recipes.yaml")
    parser.add_argument("labels", type=Path, help="directory of the label maps, case_XXXXX/segmentation.nii.gz")
    parser.add_argument("out", type=Path, help="directory for data, networks, masks and scores")
    parser.add_argument("--minutes", type=float, help="of each training; default: the plan's")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the plan's")
    parser.add_argument("--recipes", nargs="+", help="some of the plan's; a baseline is always among them")
    parser.add_argument("--variants", nargs="+", help="some of the plan's; plain is always among them")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="such as data.contrast=wide")
    arguments = parser.parse_args()
    given = {"minutes": arguments.minutes, "seeds": arguments.seeds}
    changes = [*arguments.set, *(f"{name}={value}" for name, value in given.items() if value is not None)]
    out = arguments.out.absolute()
    plan = read_plan(arguments.plan, out, changes=changes, recipes=arguments.recipes, variants=arguments.variants)
    require_known("protocol", [plan.protocol], PROTOCOLS)
    if any(letter.isspace() for letter in str(out)):
        raise UsageError(f"{out}: the name of OUT must not contain spaces")
    heading("data")
    plan.cases.make(arguments.labels.absolute())
    PROTOCOLS[plan.protocol](plan)


if __name__ == "__main__":
    try:
        with errors_reported():
            main()
    except subprocess.CalledProcessError as error:
        print(f"error: {shlex.join(error.cmd)} failed", file=sys.stderr)
        raise SystemExit(error.returncode if error.returncode > 0 else 1) from None
    except KeyboardInterrupt:
        print("interrupted; finished work is kept", file=sys.stderr)
        raise SystemExit(130) from None
