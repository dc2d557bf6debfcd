"""Run a network with PyTorch, its compiler or OpenVINO."""

from .agreement import DisagreementError, MissingBackendError, require_agreement
from .inferer import BACKENDS, Backend, BackendInferer, choose_backend, make_backend

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
