"""Print lines whatever characters the output can show, and even if nobody reads it."""

from __future__ import annotations

import os
import sys


def show(text: str, error: bool = False) -> None:
    """Print a line to the standard output or standard error, with ``\\u60a3`` for a character it cannot encode.

    Results are written before they are shown, so neither a name nor a closed pipe ends the command.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed by whoever started the command
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # All that follows goes nowhere, also what Python writes when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_closed_streams() -> None:
    """Give a command streams to write to if it was started without them, since libraries expect some."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until the program ends
