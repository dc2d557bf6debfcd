"""List the operations that a device lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Detours(TorchDispatchMode):
    """Count the operations that the device does not implement, and run them on the CPU.

    So one run lists all of them, while an error would stop at the first. The device must refuse such operations instead
    of its own silent fallback (``strict`` of :class:`kits_unet3d.pipeline.device.Kind`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        try:
            return func(*args, **kwargs)
        except NotImplementedError:
            self.operations[str(func)] += 1
            return _on_cpu(func, args, kwargs)


def _on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``func`` on CPU copies of its tensors; move its results and writes back to the device."""
    copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    devices: list[torch.device] = []
    cpu = torch.device("cpu")

    def lower(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            devices.append(value.device)
            copy = value.detach().cpu()
            copies[id(copy)] = (copy, value)
            return copy
        if isinstance(value, torch.device) and value != cpu:
            devices.append(value)
            return cpu
        return value

    def lift(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return copies[id(value)][1] if id(value) in copies else value.to(devices[0])

    result = func(*tree_map(lower, args), **tree_map(lower, kwargs))
    if func._schema.is_mutable:
        for copy, original in copies.values():
            original.copy_(copy)
    return tree_map(lift, result)
