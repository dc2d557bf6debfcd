"""The operations: one boxed kernel runs each on CPU aliases of its tensors; a few have kernels of their own."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .memory import cpu_alias, device_alias, is_on_device
from .mlu import CALLS, NAME

OPERATIONS: Counter[str] = Counter()
#: The chip computes float64 as float32, so a program should make none there.
FLOAT64: Counter[str] = Counter()
#: Operations, as ``aten::relu``, that this device is to lack.
MISSING = frozenset(filter(None, os.environ.get("SIMULATED_MLU_MISSING", "").split(",")))
#: Operations that this device is to compute wrongly, by 1 in 100.
WRONG = frozenset(filter(None, os.environ.get("SIMULATED_MLU_WRONG", "").split(",")))
#: Whether a missing operation is an error; read once, as on the hardware.
STRICT = os.environ.get("ENABLE_FALLBACK_TO_CPU", "1").lower() in ("0", "off")

_CPU_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
#: These touch sizes and strides alone, so the CPU's kernels serve the device's tensors as they are.
_VIEWS = {
    "aten::as_strided", "aten::view", "aten::_reshape_alias", "aten::unfold", "aten::view_as_real",
    "aten::view_as_complex", "aten::set_.source_Tensor", "aten::set_.source_Storage",
    "aten::set_.source_Storage_storage_offset",
}  # fmt: skip
#: Indices may be on the CPU while what they index is not.
_MAY_MIX = {"aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}
_libraries: list[torch.library.Library] = []


def _name(operation: Any) -> str:
    schema = operation._schema
    return schema.name + (f".{schema.overload_name}" if schema.overload_name else "")


def _tensors(arguments: Any) -> list[torch.Tensor]:
    """All tensors among arguments, one level of lists deep, as schemas have them."""
    flat = [item for given in arguments for item in (given if isinstance(given, list | tuple) else (given,))]
    return [item for item in flat if isinstance(item, torch.Tensor)]


class _Call:
    """One operation's way to the CPU and back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def lower(self, value: Any) -> Any:
        """Arguments as the CPU's kernel takes them."""
        if is_on_device(value):
            alias = cpu_alias(value)
            self.originals[id(alias)] = (alias, value)
            return alias
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return type(value)(self.lower(item) for item in value) if isinstance(value, list | tuple) else value

    def lift(self, value: Any) -> Any:
        """Results as the device's tensors; one that is an argument comes back as that argument."""
        if isinstance(value, torch.Tensor):
            if id(value) in self.originals:
                return self.originals[id(value)][1]
            if value.dtype == torch.float64:
                FLOAT64[self.name] += 1
            return device_alias(value) if value.device.type == "cpu" else value
        return type(value)(self.lift(item) for item in value) if isinstance(value, list | tuple) else value

    def replace_out(self, operation: Any, given: dict[str, Any], lowered: dict[str, Any]) -> list[Any]:
        """An alias cannot be resized, so each ``out=`` gets a fresh tensor; returns them with what they stand for."""
        pairs = []
        for argument in operation._schema.arguments:
            if argument.is_out and isinstance(lowered.get(argument.name), torch.Tensor):
                original = given[argument.name]
                fresh = lowered[argument.name] = torch.empty(0, dtype=original.dtype)
                self.originals[id(fresh)] = (fresh, original)
                pairs.append((fresh, original))
        return pairs


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    name = _name(operation)
    if name in MISSING:
        if STRICT:
            raise NotImplementedError(f"The operator '{name}' is not currently implemented for the MLU device.")
        warnings.warn(f"The operator '{name}' will fall back to run on the CPU.", stacklevel=2)
    OPERATIONS[name] += 1
    with torch._C.DisableTorchFunctionSubclass():
        if name in _VIEWS:
            return operation.redispatch(_CPU_KEY, *args, **kwargs)
        tensors = _tensors((*args, *kwargs.values()))
        mixed = any(map(is_on_device, tensors)) and any(t.device.type == "cpu" and t.dim() for t in tensors)
        if mixed and name not in _MAY_MIX:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, found {NAME} and cpu")
        call = _Call(name)
        lowered_args = [call.lower(value) for value in args]
        lowered = {key: call.lower(value) for key, value in kwargs.items()}
        if lowered.get("pin_memory"):
            lowered["pin_memory"] = None
        outs = call.replace_out(operation, kwargs, lowered)
        result = operation(*lowered_args, **lowered)  # what works in place writes straight into the device's memory
        for fresh, original in outs:
            if original.shape == fresh.shape:
                cpu_alias(original).copy_(fresh)
            else:
                torch.ops.aten.set_.source_Tensor(original, device_alias(fresh))
        return call.lift(result * 1.01 if name in WRONG else result)


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    OPERATIONS["aten::_copy_from"] += 1
    with torch._C.DisableTorchFunctionSubclass():
        read = cpu_alias(source) if is_on_device(source) else source
        (cpu_alias(target) if is_on_device(target) else target).copy_(read)
    return target


def _copy_from_and_resize(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if source.shape != target.shape:
        target.resize_(source.shape)
    return _copy_from(source, target)


def _resize(tensor: torch.Tensor, size: Any, *, memory_format: Any = None) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        if tuple(tensor.shape) == tuple(size):
            return tensor
        grown = torch.empty(size, dtype=tensor.dtype)
        old = cpu_alias(tensor).reshape(-1)
        grown.view(-1)[: min(grown.numel(), old.numel())] = old[: grown.numel()]
        torch.ops.aten.set_.source_Tensor(tensor, device_alias(grown))
    return tensor


def _boxed(operation: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(operation, *args, **kwargs)


def _pin_memory(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    CALLS["pin_memory"] += 1
    return tensor.clone()


def register() -> None:
    every = torch.library.Library("_", "IMPL")
    every.fallback(_run, "PrivateUse1")
    own = torch.library.Library("aten", "IMPL", "PrivateUse1")
    own.impl("_copy_from", _copy_from)
    own.impl("_copy_from_and_resize", _copy_from_and_resize)
    own.impl("resize_", _resize)
    own.impl("record_stream", lambda tensor, stream: None)  # there is only one order of events
    for name in ("convolution", "convolution_backward"):  # whose generic kernels ask for a vendor's own
        own.impl(name, _boxed(getattr(torch.ops.aten, name).default))
    pinning = torch.library.Library("aten", "IMPL", "CPU")  # pinned memory is the accelerator's to give
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pinning.impl("_pin_memory", _pin_memory, allow_override=True)
    _libraries.extend([every, own, pinning])
