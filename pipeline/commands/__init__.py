"""The subcommands of ``kits-unet3d``. Each imports what it needs only when it runs, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        results: for ``--json``: plain numbers, strings, lists and dictionaries; None from a process that leaves
            the telling to another.
        exit_code: 0 all well, 1 some cases failed.
    """

    results: dict[str, Any] | None
    exit_code: int = 0
