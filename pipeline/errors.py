"""Errors a user can do something about. Each message names the thing, the reason and the way out."""

from __future__ import annotations


class UsageError(ValueError):
    """The command or configuration cannot be carried out as given (exit code 2)."""


class CaseError(ValueError):
    """One case cannot be used; the others can (exit code 1)."""
