"""The command ``kits-unet3d``: one subcommand a file in ``commands``.

Exit codes: 0 all well, 1 some cases failed, 2 usage or configuration, 3 model, 130 interrupted.
With ``--json`` a command prints one JSON document, its results or ``{"error": …, "exit_code": …}``, and nothing else
to the standard output; what it prints otherwise goes to the standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from .commands import Outcome

#: Each is a module of ``commands`` with HELP, EXAMPLE, ``add_arguments(parser)`` and ``run(arguments)``.
COMMANDS = (
    "download", "phantom", "prepare", "verify", "predict", "evaluate", "picture", "device", "benchmark", "export",
    "unpack",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kits-unet3d", description="Segment kidneys and kidney tumours in CT, from data to masks."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"{__package__}.commands.{name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.add_argument("--json", action="store_true", help="print the results as one JSON document")
        subparser.add_argument("--debug", action="store_true", help="show where an error came from")
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, as `register-python-argcomplete kits-unet3d` has told it to
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells the UIDs of slices otherwise
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
        outcome = _outcome(arguments)
    if arguments.json and outcome.results is not None:
        print(json.dumps(outcome.results, indent=1))
    return outcome.exit_code


def _outcome(arguments: argparse.Namespace) -> Outcome:
    try:
        outcome: Outcome = arguments.run(arguments)
        return outcome
    except KeyboardInterrupt:
        text, code = "interrupted; what is finished is kept", 130
        print(text, file=sys.stderr)
    except Exception as error:  # the last place that can turn an error into a sentence and an exit code
        if arguments.debug:
            traceback.print_exc()
        text, code = str(error) or type(error).__name__, _exit_code(error)
        print(f"error: {text}", file=sys.stderr)
    return Outcome({"error": text, "exit_code": code}, code)


def _exit_code(error: Exception) -> int:
    from kits_unet3d.networks import CheckpointError

    from .errors import CaseError

    if isinstance(error, CaseError):
        return 1
    return 3 if isinstance(error, CheckpointError) else 2


if __name__ == "__main__":
    sys.exit(main())
