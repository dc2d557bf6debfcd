"""Errors that a user can do something about, and the one place that reports them.

Each message names the thing, the reason and the way out. An error has an exit code: 1 some cases failed, 2 usage or
configuration, 3 checkpoint (:class:`kits_unet3d.networks.CheckpointError`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """The command or configuration cannot be carried out as given."""

    exit_code = 2


class CaseError(ValueError):
    """One case cannot be used; the others can."""

    exit_code = 1


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error; 2 for one that has none of its own."""
    return int(getattr(error, "exit_code", 2))


def report(error: BaseException) -> str:
    """Print an error as one line on the standard error; return its text."""
    text = str(error) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    return text


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the program with one line and its exit code at an error that has one.

    Use it around what a bundle's configuration calls: MONAI's own way to end is a traceback.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        report(error)
        raise SystemExit(exit_code(error)) from None
