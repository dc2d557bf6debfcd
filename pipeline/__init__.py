"""Provide data, training, evaluation, inference and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .runtime.paths import name_user

if TYPE_CHECKING:
    from .inference import Predictor

__all__ = ["Predictor"]

name_user()  # before MONAI is imported


def __getattr__(name: str) -> Any:
    """Import a name on first use, since torch takes seconds and the command's help does not need it."""
    if name == "Predictor":
        from .inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
