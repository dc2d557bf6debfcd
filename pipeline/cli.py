"""The command ``kits-unet3d``: one subcommand a file in ``commands``.

Exit codes: 0 all well, 1 some cases failed, 2 usage or configuration, 3 model, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Sequence

#: Each is a module of ``commands`` with HELP, EXAMPLE, ``add_arguments(parser)`` and ``run(arguments)``.
COMMANDS = (
    "download", "phantom", "prepare", "verify", "predict", "evaluate", "picture", "device", "export", "unpack",
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
        subparser.add_argument("--debug", action="store_true", help="show where an error came from")
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130
    except Exception as error:  # the last place that can turn an error into a sentence and an exit code
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return _exit_code(error)


def _exit_code(error: Exception) -> int:
    from kits_unet3d.networks import CheckpointError

    from .errors import CaseError

    if isinstance(error, CaseError):
        return 1
    return 3 if isinstance(error, CheckpointError) else 2


if __name__ == "__main__":
    sys.exit(main())
