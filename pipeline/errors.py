"""Errors a user can do something about. Each message names the thing, the reason and the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """The command or configuration cannot be carried out as given (exit code 2)."""


class CaseError(ValueError):
    """One case cannot be used; the others can (exit code 1)."""


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Around what a bundle's configuration calls: a :class:`UsageError` ends the program with one sentence and exit
    code 2, as a run of a configuration has no other way to speak to its user."""
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
