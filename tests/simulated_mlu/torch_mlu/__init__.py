"""Simulate ``mlu``: with the parent directory on ``PYTHONPATH``, ``import torch_mlu`` makes the device known to torch.

A genuine device of torch's (the one reserved for vendors, renamed), whose memory is the CPU's and whose operations
are the CPU's. It shows that a program sends what it should where it should; it says nothing of an MLU's numerics or
speed. What ran on it is written into the directory ``$SIMULATED_MLU_REPORT`` when the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils import backend_registration

from . import autocast, collectives, kernels, mlu, storage

__version__ = f"0.0.0-torch{'.'.join(torch.__version__.split('.')[:2])}"


def report() -> dict[str, dict[str, int]]:
    """How often each operation, each cast, each ``torch.mlu`` call and each collective has run in this process."""
    return {
        "operations": dict(kernels.OPERATIONS),
        "float64": dict(kernels.FLOAT64),
        "casts": dict(autocast.CASTS),
        "calls": dict(mlu.CALLS),
        "collectives": dict(collectives.CALLS),
    }


def _write_report(directory: str) -> None:
    path = Path(directory) / f"{os.getpid()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report(), indent=1, sort_keys=True))


#: Whether tensors can be on the device. torch 2.4 lets Python name a device, but not give it memory or operations.
TENSORS = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
if TENSORS:
    backend_registration._setup_privateuseone_for_python_backend(mlu.NAME, backend_module=mlu)
    for part in (kernels, autocast, storage, collectives):
        part.register()
else:
    torch.utils.rename_privateuse1_backend(mlu.NAME)
    torch._register_device_module(mlu.NAME, mlu)
# As on the hardware: convolutions use TF32 until told otherwise, and torch's version says nothing.
torch.backends.cnnl = SimpleNamespace(allow_tf32=True)
torch.backends.mlu = SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False))
torch.version.mlu = None
if "SIMULATED_MLU_REPORT" in os.environ:
    atexit.register(_write_report, os.environ["SIMULATED_MLU_REPORT"])
