"""Run the command ``kits-unet3d``, whose subcommands are one file each in ``commands``.

Exit codes: 0 success, 1 some cases failed, 2 usage or configuration, 3 model, 130 interrupted.
With ``--json`` a command prints one JSON document to the standard output: its results or ``{"error": …,
"exit_code": …}``. All other output goes to the standard error.
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
from importlib.metadata import version
from typing import NoReturn

from .commands import Outcome, predict
from .runtime.errors import Interrupted, UsageError, exit_code, report
from .runtime.memory import use_cpu_share
from .runtime.output import lasting_output, quieten_libraries

#: Each is a module of ``commands`` with HELP, EXAMPLE, ``add_arguments(parser)`` and ``run(arguments)``.
COMMANDS = (
    "download", "phantom", "prepare", "verify", "train", "folds", "predict", "evaluate", "picture", "device",
    "benchmark", "configs", "export", "unpack", "weights",
)  # fmt: skip
#: Modules whose names differ from their commands'.
MODULES = {"device": "device_check"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Report a wrong command line like any other error, also with ``--json``."""
        self.print_usage(sys.stderr)
        raise UsageError(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show only informative defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == ()
        return action.help if silent else super()._get_help_string(action)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line; with ``command``, only that one gets its options, which is quicker."""
    parser = _Parser(
        prog="kits-unet3d",
        description="Segment kidneys and kidney tumours in CT, from data to masks.",
        epilog=f"example: {predict.EXAMPLE}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('kits-unet3d')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        if command not in (None, name):
            subparsers.add_parser(name, add_help=False)  # its name, for error messages
            continue
        module = importlib.import_module(f"{__package__}.commands.{MODULES.get(name, name)}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=_Help,
        )
        module.add_arguments(subparser)
        subparser.add_argument("--json", action="store_true", help="print the results as one JSON document")
        subparser.add_argument("--debug", action="store_true", help="show details, libraries' warnings and tracebacks")
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    use_cpu_share()
    details = "--debug" in argv
    if not details:
        quieten_libraries()
    # Search for --json before the rest is parsed, which may fail. argparse also accepts its abbreviations.
    machine = any(word.startswith("--j") and "--json".startswith(word) for word in argv)
    with lasting_output() as output:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger("kits_unet3d").setLevel(logging.DEBUG if details else logging.NOTSET)
        logging.getLogger("highdicom").setLevel(logging.WARNING)  # otherwise it logs the UIDs of slices
        with redirect_stdout(sys.stderr) if machine else nullcontext():
            outcome = _outcome(argv)
        # Only the first process of a command prints results.
        if machine and outcome.results is not None and int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps(outcome.results, indent=1))
        output.flush()
        if output.error is None:
            return outcome.exit_code
        report(OSError(f"the output could not be written ({output.error.strerror}); free disk space, then repeat it"))
        return outcome.exit_code or 1


def _outcome(argv: Sequence[str]) -> Outcome:
    try:
        completing = "_ARGCOMPLETE" in os.environ  # set by a shell after `register-python-argcomplete kits-unet3d`
        first = argv[0] if argv and not completing else None
        parser = build_parser(first if first in COMMANDS else None)
        if completing:
            _complete(parser)
        arguments = parser.parse_args(argv)
        require_no_empty_values(arguments)
        outcome: Outcome = arguments.run(arguments)
        return outcome
    except KeyboardInterrupt:
        text, code = "interrupted; finished work is kept", 130
        print(text, file=sys.stderr)
    except Interrupted as error:  # the training has said so, and how to continue
        text, code = "interrupted; finished work is kept", error.exit_code
    except Exception as error:  # the last place that can turn an error into a message and an exit code
        if "--debug" in argv:
            traceback.print_exc()
        text, code = report(error), exit_code(error)
    return Outcome({"error": text, "exit_code": code}, code)


def require_no_empty_values(arguments: argparse.Namespace) -> None:
    """Raise a UsageError if a value is empty, which as a path would be the current directory."""
    for name, value in vars(arguments).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{name.replace('_', '-')} is empty; give a value, or leave it out")


def _complete(parser: argparse.ArgumentParser) -> None:
    try:
        import argcomplete
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[completion]'`") from error
    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())
