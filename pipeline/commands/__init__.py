"""Define the subcommands of ``kits-unet3d``; each imports its modules only when it runs, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a command.

    Attributes:
        results: for ``--json``: plain numbers, strings, lists and dictionaries; None from a process that leaves
            the output to another.
        exit_code: 0 for success, 1 if some cases failed.
    """

    results: dict[str, Any] | None
    exit_code: int = 0
