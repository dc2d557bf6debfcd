"""Run a network with PyTorch, its compiler or OpenVINO."""

from .agreement import DisagreementError, MissingEngineError, require_agreement
from .choice import ENGINES, Engine, choose_engine, make_engine
from .inferer import EngineInferer

__all__ = [
    "ENGINES",
    "DisagreementError",
    "Engine",
    "EngineInferer",
    "MissingEngineError",
    "choose_engine",
    "make_engine",
    "require_agreement",
]
