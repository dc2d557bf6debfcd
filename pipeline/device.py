"""Define everything that depends on the kind of device: cuda, mlu or cpu.

All other modules use the :class:`Accelerator` that :func:`resolve` returns. To add a device, add it to :data:`KINDS`.
Everything else comes from ``torch.<kind>``, which all vendors shape like ``torch.cuda``.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from inspect import signature
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from .runtime.errors import DeviceError
from .runtime.scaler import LossScaler

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
#: Oldest torch of each set of tested versions, the file of that set, and its MONAI.
TESTED = (("2.4", "constraints-mlu370.txt", "1.5.2"), ("2.8", "constraints.txt", "1.6.1"))


@dataclass(frozen=True)
class Kind:
    """Describe a kind of device.

    Attributes:
        collectives: communication backend of several processes; None for torch's own choice, or gloo without one.
        package: Python package that registers the device with torch; None for devices that torch supports itself.
        source: origin and versions of that package.
        tf32: switches below ``torch.backends`` that make FP32 use fewer bits.
        strict: environment in which an operation that the device lacks is an error, not a silent fallback to the CPU.
        driver: command that prints the driver's version, and a pattern of that version.
        libraries: name of the vendor's libraries, if torch knows their version; else also the environment variable of
            their directory, its default, and the file with their version.
        pairs: pattern of accelerators' names, first and last version of ``package``, versions of torch known to fit.
    """

    collectives: str | None = None
    package: str | None = None
    source: str = ""
    tf32: tuple[str, ...] = ()
    strict: Mapping[str, str] = field(default_factory=dict)
    driver: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str, str, tuple[str, ...]], ...] = ()


#: In the order of preference of "auto".
KINDS: Mapping[str, Kind] = {
    "mlu": Kind(
        collectives="cncl",
        package="torch_mlu",
        source="Cambricon's PyTorch image, as torch_mlu 1.34 with torch 2.13 or, on MLU370, torch_mlu 1.23 with 2.4",
        tf32=("cnnl.allow_tf32", "mlu.matmul.allow_tf32"),
        strict={"ENABLE_FALLBACK_TO_CPU": "0"},
        driver=("cnmon info", r"Driver\s*:?\s*v?(\d+(?:\.\d+)+)"),
        libraries=("Neuware", "NEUWARE_HOME", "/usr/local/neuware", "version.txt"),
        pairs=(
            (r"MLU370", "1.22", "1.25", ("2.1", "2.3", "2.4")),
            (r"MLU[5-9]\d\d", "1.30", "1.30", ("2.9",)),
            (r"MLU[5-9]\d\d", "1.33", "1.33", ("2.11", "2.12")),
            (r"MLU[5-9]\d\d", "1.34", "1.34", ("2.13",)),
        ),
    ),
    "cuda": Kind(
        collectives="nccl",
        tf32=("cudnn.allow_tf32", "cuda.matmul.allow_tf32"),
        driver=("nvidia-smi --query-gpu=driver_version --format=csv,noheader", r"(\d+(?:\.\d+)+)"),
        libraries=("CUDA",),
    ),
    "cpu": Kind(collectives="gloo"),
}


def _module(kind: str) -> Any:
    """Return ``torch.cuda``, ``torch.mlu``, …; None for the CPU and for devices without such a module."""
    module = None if kind == "cpu" else getattr(torch, kind, None)
    return module if hasattr(module, "device_count") and hasattr(module, "is_available") else None


def _register(kind: str) -> None:
    """Register a device with torch, if its package is installed; raise a DeviceError if that does not fit torch."""
    package, source = (about := KINDS.get(kind, Kind())).package, about.source
    if package is None or importlib.util.find_spec(package) is None:
        return
    try:
        version = str(getattr(importlib.import_module(package), "__version__", ""))
    except Exception as error:  # a package built for another torch fails in many ways
        raise DeviceError(f"{package} fails on torch {torch.__version__} ({error}); take both from {source}") from error
    oldest, present = (tuple(map(int, text.split(".")[:2])) for text in (TESTED[0][0], torch.__version__))
    built_for = re.search(r"torch(\d+)\.(\d+)", version)
    if present < oldest or (built_for and present != (int(built_for[1]), int(built_for[2]))):
        raise DeviceError(f"{package} {version} and torch {torch.__version__} do not match; take both from {source}")


def _available(kind: str) -> bool:
    _register(kind)
    return kind == "cpu" or bool((module := _module(kind)) and module.is_available())


def _missing(kind: str) -> str:
    """Explain in an error message why a device is missing."""
    about = KINDS.get(kind, Kind())
    if _module(kind) is None and about.package is not None:
        return f"the package {about.package} is not installed; it is part of {about.source}"
    if about.package is None and getattr(torch.version, kind, "") is None:
        return f"torch {torch.__version__} is built without {kind.upper()}; install a build of that version with it"
    if _module(kind) is None:
        return f"torch {torch.__version__} does not know this device"
    return "the driver shows no accelerator; check it and the variable that limits the visible ones"


def _tf32_switches(kind: str) -> list[tuple[Any, str]]:
    """Return (owner, attribute) of each of the kind's TF32 switches that this torch has."""
    found = []
    for path in KINDS.get(kind, Kind()).tf32:
        owner, _, name = path.rpartition(".")
        with suppress(AttributeError):
            attrgetter(path)(torch.backends)
            found.append((attrgetter(owner)(torch.backends), name))
    return found


def _computes_bf16(kind: str) -> bool:
    """Return whether the current accelerator of a kind multiplies in bf16 itself; for a CPU, whether bf16 is faster."""
    if kind == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    ask = getattr(_module(kind), "is_bf16_supported", lambda: True)
    strictly = {"including_emulation": False} if "including_emulation" in signature(ask).parameters else {}
    return bool(ask(**strictly))


@dataclass(frozen=True)
class Accelerator:
    """Describe the device of this process and everything that depends on its kind."""

    device: torch.device
    precision: str = "fp32"

    @property
    def kind(self) -> str:
        return self.device.type

    @property
    def on_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def backend(self) -> str:
        """Return the process-group backend, always with gloo, since MONAI and ignite gather CPU tensors."""
        chosen = torch.distributed.Backend.default_device_backend_map
        own = KINDS.get(self.kind, Kind()).collectives or chosen.get(self.kind, "gloo")
        return own if own == "gloo" else f"cpu:gloo,{self.kind}:{own}"

    @property
    def pin_memory(self) -> bool:
        return not self.on_cpu

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the mixed-precision context of a forward pass; it does nothing for fp32 and tf32."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.kind, dtype=dtype)

    def scaler(self) -> LossScaler:
        """Return the loss scaler: active for fp16, a pass-through otherwise."""
        return LossScaler(self.kind, enabled=self.precision == "fp16")

    def wrap(self, network: nn.Module, channels_last: bool = False) -> nn.Module:
        """Move ``network`` to the device, and into DistributedDataParallel if there are several processes.

        With ``channels_last`` its convolutions use that memory layout, which is faster on some devices.
        """
        layout = {"memory_format": torch.channels_last_3d} if channels_last else {}
        network = network.to(self.device, **layout)  # type: ignore[call-overload]
        if not ((group := torch.distributed).is_available() and group.is_initialized() and group.get_world_size() > 1):
            return network
        # A 1³ kernel fits both layouts. Its gradient has the default strides; DDP needs a weight with the same ones.
        for weight in filter(torch.Tensor.is_contiguous, network.parameters()):
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        return nn.parallel.DistributedDataParallel(network, device_ids=None if self.on_cpu else [self.device.index])

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""
        if (module := _module(self.kind)) is not None:
            module.synchronize()

    def memory(self) -> dict[str, int]:
        """Return the bytes ``allocated`` by tensors, their ``peak``, those ``reserved``, ``free`` and in ``total``."""
        module = _module(self.kind)
        calls = {"allocated": "memory_allocated", "peak": "max_memory_allocated", "reserved": "memory_reserved"}
        counts = {name: getattr(module, call)(self.device) for name, call in calls.items() if hasattr(module, call)}
        if hasattr(module, "mem_get_info"):
            counts["free"], counts["total"] = module.mem_get_info(self.device)
        return {name: int(count) for name, count in counts.items()}

    def rng_state(self) -> dict[str, Any]:
        """Return the state of the device's random generator, a uint8 tensor on the CPU, and the kind of device."""
        module = _module(self.kind)
        state = torch.get_rng_state() if module is None else module.get_rng_state(self.device).cpu()
        return {"kind": self.kind, "state": state}

    def set_rng_state(self, state: Mapping[str, Any]) -> bool:
        """Restore the random generator from a :meth:`rng_state`; return False for another kind of device's."""
        if state["kind"] != self.kind:
            return False
        if (module := _module(self.kind)) is None:
            torch.set_rng_state(state["state"])
        else:
            module.set_rng_state(state["state"], self.device)
        return True

    def describe(self) -> dict[str, Any]:
        """Describe the device for a log, a checkpoint or a report, in plain strings and numbers."""
        module, about = _module(self.kind), KINDS.get(self.kind, Kind())
        named = getattr(module, "get_device_name", lambda _: platform.processor() or platform.machine())
        tf32 = [getattr(owner, switch) for owner, switch in _tf32_switches(self.kind)]
        runtime = getattr(torch.version, self.kind, None)
        if about.package is not None:
            runtime = f"{about.package} {getattr(sys.modules.get(about.package), '__version__', 'of unknown version')}"
        return {
            "device": str(self.device),
            "name": str(named(self.device)),
            "accelerators": int(module.device_count()) if module is not None else 0,
            "precision": self.precision,
            "tf32": any(tf32) if len(tf32) == len(about.tf32) else "unknown",
            "bf16": _computes_bf16(self.kind),
            "torch": str(torch.__version__),
            "runtime": str(runtime or ""),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "collectives": self.backend,
            "deterministic": "bit for bit on one machine" if self.on_cpu else "not guaranteed",
        }


def find(device: str | torch.device | None = "auto", local_rank: int | None = None) -> torch.device:
    """Return the device that :func:`resolve` would use, without using it; raise DeviceError if it is missing."""
    name = _automatic() if device in (None, "auto") else str(device)
    kind = name.split(":")[0]
    if not _available(kind):
        raise DeviceError(f"device {name!r} is not available: {_missing(kind)}")
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not a device; give a kind, or an accelerator as in '{kind}:0'") from error
    if (module := _module(kind)) is None:
        return wanted
    rank = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    index = rank if wanted.index is None else wanted.index
    if index >= module.device_count():
        raise DeviceError(f"{kind}:{index} is not available: {module.device_count()} accelerator(s) are visible")
    return torch.device(kind, index)


def resolve(
    device: str | torch.device | None = "auto", precision: str = "fp32", local_rank: int | None = None
) -> Accelerator:
    """Return the accelerator to run on.

    Args:
        device: a kind such as ``"cuda"``, one accelerator such as ``"cuda:1"``, or ``"auto"``: the first of mlu, cuda,
            any other that torch knows, cpu.
        precision: ``"fp32"`` (without TF32), ``"tf32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: bf16 on a CPU that
            computes in it, fp32 everywhere else.
        local_rank: index of the accelerator on this host; from ``LOCAL_RANK`` if not given.

    Raises:
        DeviceError: if the device is missing or lacks the precision; it never falls back to the CPU silently.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    kind = (wanted := find(device, local_rank)).type
    getattr(_module(kind), "set_device", lambda _: None)(wanted)  # kinds with a single device lack this call
    if precision == "auto":
        precision = "bf16" if kind == "cpu" and _computes_bf16(kind) else "fp32"
    if precision == "tf32" and not _tf32_switches(kind):
        raise DeviceError(f"{wanted} does not support TF32; choose fp32")
    if precision == "bf16" and kind != "cpu" and not _computes_bf16(kind):
        raise DeviceError(f"{wanted} does not compute in bf16; choose fp16 or fp32")
    for owner, switch in _tf32_switches(kind):  # FP32 must mean FP32; both vendors default to TF32
        setattr(owner, switch, precision == "tf32")
    return Accelerator(wanted, precision)


def _automatic() -> str:
    own = getattr(torch, "accelerator", None)  # since torch 2.6
    other = [own.current_accelerator().type] if own and own.is_available() else []
    return next((kind for kind in [*(kind for kind in KINDS if kind != "cpu"), *other] if _available(kind)), "cpu")
