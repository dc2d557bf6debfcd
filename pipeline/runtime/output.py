"""Print lines whatever characters the output's encoding has."""

from __future__ import annotations

import sys


def show(text: str, error: bool = False) -> None:
    """Print a line to the standard output or standard error, with ``\\u60a3`` for a character it cannot encode.

    Results are written before they are shown, and a name must not end the command.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed by whoever started the command
        return
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
