"""Provide data, training, evaluation, inference and the command line."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference import Predictor

__all__ = ["Predictor"]

# MONAI asks for the user's name when it is imported, and fails where the system lacks it, as with
# `docker run --user 1234`.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())


def __getattr__(name: str) -> Any:
    """Import a name on first use, since torch takes seconds and the command's help does not need it."""
    if name == "Predictor":
        from .inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
