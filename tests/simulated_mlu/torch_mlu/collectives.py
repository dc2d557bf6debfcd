"""``cncl``: collectives of the device's tensors, carried out by gloo on their CPU aliases.

Strict as the real one: a CPU tensor is refused, unless the group was made with gloo beside it (``cpu:gloo,mlu:cncl``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _world

from .memory import cpu_alias, is_on_device
from .mlu import NAME

CALLS: Counter[str] = Counter()


class _Group(dist.ProcessGroup):
    def __init__(self, gloo: Any, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.gloo = gloo

    def getBackendName(self) -> str:  # noqa: N802  torch's name
        return "cncl"

    @property
    def takes_cpu(self) -> bool:
        return "cpu:" in _world.pg_backend_config.get(self, "")

    @property
    def _device_types(self) -> list[torch.device]:
        return [*([torch.device("cpu")] if self.takes_cpu else []), torch.device(NAME)]

    def lower(self, value: Any) -> Any:
        if is_on_device(value):
            return cpu_alias(value.detach())
        if isinstance(value, torch.Tensor) and not self.takes_cpu:
            raise RuntimeError("Tensors must be MLU and dense")
        return [self.lower(item) for item in value] if isinstance(value, list | tuple) else value

    def barrier(self, opts: Any = None) -> Any:
        CALLS["barrier"] += 1
        return self.gloo.barrier()


def _forwarded(name: str) -> Callable[..., Any]:
    def run(self: _Group, *args: Any, **kwargs: Any) -> Any:
        CALLS[name] += 1
        lowered = {key: self.lower(value) for key, value in kwargs.items()}
        return getattr(self.gloo, name)(*[self.lower(value) for value in args], **lowered)

    return run


for _name in (
    "allreduce", "allgather", "broadcast", "reduce", "gather", "scatter", "reduce_scatter", "alltoall", "alltoall_base",
    "_allgather_base", "_reduce_scatter_base", "allgather_into_tensor_coalesced", "allreduce_coalesced", "send", "recv",
):  # fmt: skip
    setattr(_Group, _name, _forwarded(_name))


def _create(store: Any, rank: int, size: int, timeout: Any) -> _Group:
    return _Group(dist.ProcessGroupGloo(store, rank, size, timeout), rank, size)


def register() -> None:
    dist.Backend.register_backend("cncl", _create, devices=[NAME])
