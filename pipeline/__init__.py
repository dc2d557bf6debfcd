"""Everything that runs: data, training, evaluation, inference, the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """Imported when asked for, since torch takes seconds and the command's help needs none of it."""
    if name == "Predictor":
        from .inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
