"""The one file that knows what a cuda, an mlu or a cpu is.

Everything else asks the :class:`Accelerator` that :func:`resolve` gives.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
#: In the order of preference of "auto"; what each sends its tensors through between processes.
BACKENDS = {
    "mlu": "cpu:gloo,mlu:cncl",
    "cuda": "cpu:gloo,cuda:nccl",
    "xpu": "cpu:gloo,xpu:xccl",
    "cpu": "gloo",
}


class DeviceError(RuntimeError):
    """A device was asked for that is not there; the message says what is missing."""


def _load_mlu() -> None:
    """Registers the mlu device. Its package comes with Cambricon's image and is normally absent."""
    if importlib.util.find_spec("torch_mlu") is not None:
        importlib.import_module("torch_mlu")


def _module(kind: str) -> Any:
    """``torch.cuda``, ``torch.mlu``, …; None for the CPU and for devices without such a module."""
    return None if kind == "cpu" else getattr(torch, kind, None)


def _available(kind: str) -> bool:
    if kind == "cpu":
        return True
    module = _module(kind)
    return module is not None and bool(module.is_available())


def _missing(kind: str) -> str:
    """What to tell someone whose device is not there."""
    if kind == "mlu" and _module("mlu") is None:
        return (
            "the package torch_mlu is not installed; it comes in Cambricon's PyTorch image, "
            "as torch_mlu 1.34 with torch 2.13 or torch_mlu 1.33 with torch 2.11"
        )
    if kind == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build of the same version"
    if _module(kind) is None:
        return f"torch {torch.__version__} knows no such device"
    return "the driver shows no card; check it and the variable that limits the visible cards"


@dataclass(frozen=True)
class Accelerator:
    """The device of this process and all that depends on its kind."""

    device: torch.device
    precision: str = "fp32"

    @property
    def kind(self) -> str:
        return self.device.type

    @property
    def backend(self) -> str:
        """Process-group backend. Always with gloo beside it, since MONAI and ignite gather CPU tensors."""
        return BACKENDS.get(self.kind, "gloo")

    @property
    def pin_memory(self) -> bool:
        return self.kind != "cpu"

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass; with fp32 nothing at all."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.kind, dtype=torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaler: at work for fp16, a pass-through otherwise."""
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def wrap(self, network: nn.Module, channels_last: bool = False) -> nn.Module:
        """``network`` on the device, and in DistributedDataParallel when there are several processes.

        With ``channels_last`` its convolutions work in that memory layout, which some devices do faster.
        """
        network = network.to(self.device)
        if channels_last:
            network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return network
        if torch.distributed.get_world_size() == 1:
            return network
        ids = None if self.kind == "cpu" else [self.device.index]
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""
        module = _module(self.kind)
        if module is not None:
            module.synchronize()

    def peak_memory(self) -> int:
        """Largest memory use of the device so far in bytes; 0 where it keeps no record."""
        module = _module(self.kind)
        return int(module.max_memory_allocated()) if hasattr(module, "max_memory_allocated") else 0

    def describe(self) -> dict[str, Any]:
        """What a log, a checkpoint or a report should say about the device: plain strings and numbers."""
        module = _module(self.kind)
        name = platform.processor() or platform.machine()
        if module is not None and hasattr(module, "get_device_name"):
            name = module.get_device_name(self.device)
        return {
            "device": str(self.device),
            "name": str(name),
            "precision": self.precision,
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "tf32": False,
            "deterministic": "bit for bit on one machine" if self.kind == "cpu" else "not guaranteed",
        }


def resolve(
    device: str | torch.device | None = "auto", precision: str = "fp32", local_rank: int | None = None
) -> Accelerator:
    """The accelerator to run on.

    Args:
        device: ``"auto"`` (mlu, then cuda, then any other accelerator that torch knows, then the CPU), a
            kind such as ``"cuda"``, or one card such as ``"cuda:1"``.
        precision: ``"fp32"`` (TF32 is switched off), ``"bf16"``, ``"fp16"``, or ``"auto"``: bf16 on a CPU that
            computes in it, fp32 everywhere else.
        local_rank: which card of this host; from ``LOCAL_RANK`` if not given.

    Raises:
        DeviceError: if the device asked for is not there; never a quiet run on the CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    _load_mlu()
    rank = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    kind = _automatic() if device in (None, "auto") else ""
    try:
        wanted = torch.device(kind or str(device))
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is not there: {_missing(str(device).split(':')[0])}") from error
    if not _available(wanted.type):
        raise DeviceError(f"device {str(device)!r} is not there: {_missing(wanted.type)}")
    module = _module(wanted.type)
    if module is not None:
        index = rank if wanted.index is None else wanted.index
        if index >= module.device_count():
            raise DeviceError(f"{wanted.type}:{index} is not there: {module.device_count()} card(s) are visible")
        wanted = torch.device(wanted.type, index)
        module.set_device(wanted)
    _switch_tf32_off()
    if precision == "auto":
        precision = "bf16" if wanted.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
    return Accelerator(wanted, precision)


def _automatic() -> str:
    known = [kind for kind in BACKENDS if kind != "cpu"]
    current: Callable[[], Any] | None = getattr(torch.accelerator, "current_accelerator", None)
    other = current() if current is not None and torch.accelerator.is_available() else None
    candidates = [*known, *([other.type] if other is not None else []), "cpu"]
    return next(kind for kind in candidates if _available(kind))


def _switch_tf32_off() -> None:
    """FP32 in this recipe means FP32; both vendors default to TF32 for convolutions."""
    for owner, switch in (("cudnn", "cudnn"), ("cnnl", "cnnl"), ("cuda", "matmul"), ("mlu", "matmul")):
        module = getattr(torch.backends, owner, None)
        target = getattr(module, switch, None) if switch == "matmul" else module
        if target is not None and hasattr(target, "allow_tf32"):
            target.allow_tf32 = False


def seed_everything(seed: int) -> int:
    """Seeds Python, NumPy and torch (which seeds the accelerator too); returns ``seed``."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  MONAI's transforms draw from it when they are not seeded
    torch.manual_seed(seed)
    return seed
