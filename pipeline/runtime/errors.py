"""Define and report the errors that a user can correct.

Each error message names the object, the reason and the remedy. Exit codes: 1 some cases failed, 2 usage or
configuration, 3 checkpoint (:class:`kits_unet3d.networks.CheckpointError`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """Report that the command or configuration cannot be used."""

    exit_code = 2


class CaseError(ValueError):
    """Report that one case cannot be used."""

    exit_code = 1


#: Messages of the errors that MONAI raises around one in a configuration or a transform.
WRAPPERS = ("Failed to evaluate", "Failed to instantiate", "applying transform")


def cause(error: BaseException) -> BaseException:
    """Return the error that MONAI wraps, or the error itself."""
    while isinstance(error, RuntimeError) and str(error).startswith(WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error or of the one that MONAI wraps; 2 if it does not define one."""
    return int(getattr(cause(error), "exit_code", 2))


def report(error: BaseException) -> str:
    """Print an error, or the one that MONAI wraps, as one line on standard error; return its text."""
    error = cause(error)
    text = str(error) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    return text


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the program with one line and the exit code of an error that has one.

    Use it around the calls of a bundle's configuration; MONAI itself ends with a traceback.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        report(error)
        raise SystemExit(exit_code(error)) from None
