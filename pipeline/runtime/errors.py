"""Define and report the errors that a user can correct.

Each error message names the object, the reason and the remedy. Exit codes: 1 some cases failed, 2 usage or
configuration, 3 checkpoint (:class:`kits_unet3d.networks.CheckpointError`, or none found), 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class UsageError(ValueError):
    """Report that the command or configuration cannot be used."""

    exit_code = 2


class CaseError(ValueError):
    """Report that one case cannot be used."""

    exit_code = 1


class Interrupted(SystemExit):
    """End the program after a signal; as a SystemExit it does so without a traceback, whoever started the run."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__(self.exit_code)


class DeviceError(RuntimeError):
    """Report that a device is missing or lacks a capability."""


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


#: Receives the lines printed for a person; only the log file reads it.
shown = logging.getLogger("kits_unet3d.shown")
shown.propagate = False
shown.addHandler(logging.NullHandler())

#: Variable with the path of an open file of the launcher. Its processes write there which one fails first.
LAUNCHER = "KITS_UNET3D_LAUNCHER"


def _reported_by_another() -> bool:
    """Return whether another process of the same launch was first to report an error; the first is the cause."""
    try:
        file = os.open(os.environ[LAUNCHER], os.O_RDWR | os.O_APPEND)
    except (KeyError, OSError):  # this is a single process, or the launcher has ended
        return False
    attempt, own = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), str(os.getpid())
    with open(file, "r+b", buffering=0) as stream:
        stream.write(f"{attempt} {own}\n".encode())  # appended as a whole, whoever else writes
        stream.seek(0)
        entries = [line.split() for line in stream.read().decode().splitlines()]
    return own != next(process for number, process in entries if number == attempt)


def report(error: BaseException) -> str:
    """Print an error, or the one that MONAI wraps, as one line on standard error; return its text.

    Of the processes that :mod:`~kits_unet3d.pipeline.runtime.launch` starts, only the first that fails prints.
    """
    error = cause(error)
    text = _of_worker(str(error)) or type(error).__name__
    shown.error("error: %s", text, exc_info=error)
    if not _reported_by_another():
        tqdm.write(f"error: {text}", file=sys.stderr)  # on a line of its own, also below a progress bar
    return text


def _of_worker(text: str) -> str:
    """Return the message of the first error in the traceback that torch makes of a data worker's error."""
    if not (text.startswith("Caught ") and "Traceback (most recent call last)" in text):
        return text
    first = text.split("\n\nThe above exception was the direct cause")[0]
    message = first[first.rindex("\n  ") :].partition("\n")[2].partition("\n")[2]  # after the last line of code
    return re.sub(r"^[\w.]+: ", "", " ".join(message.split())) or text.splitlines()[0]


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
