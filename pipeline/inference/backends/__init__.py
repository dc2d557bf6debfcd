"""Run a network with PyTorch, its compiler or OpenVINO."""

from .agreement import DisagreementError, MissingBackendError, require_agreement
from .choice import BACKENDS, Backend, choose_backend, make_backend
from .inferer import BackendInferer

__all__ = [
    "BACKENDS",
    "DisagreementError",
    "Backend",
    "BackendInferer",
    "MissingBackendError",
    "choose_backend",
    "make_backend",
    "require_agreement",
]
