"""Processes of one run: joining, ranks, and what they tell each other."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..device import Accelerator


def join(accelerator: Accelerator, patience: timedelta | None = None) -> int:
    """Joins the process group that torchrun announces, if there is one; returns this process's rank.

    Args:
        accelerator: whose backend carries what processes tell each other.
        patience: how long one may wait for another; torch's own half hour at most, if not given.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        store, number, size = next(rendezvous("env://"))
        if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:
            # On one host a restarted group meets in the store of the one that died, and must not find its
            # addresses there. Several hosts may have counted differently; torchrun gives them a new store each
            # time if TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set for it.
            store = dist.PrefixStore(f"attempt-{restarts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(accelerator.backend, store=store, timeout=patience, rank=number, world_size=size)
        # A process that ends with an open group may abort the others' last messages.
        atexit.register(_leave)
        # ignite's first call asks all processes something, and may else come on the first one alone.
        idist.sync()
    return rank()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def restarts() -> int:
    """How often torchrun has started the processes of this host anew after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def share(items: list[Any]) -> list[Any]:
    """This process's part of ``items``: every world_size-th, nothing twice, nothing padded."""
    return items[rank() :: world_size()]


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is set on any process; the same answer on every one."""
    if world_size() == 1:
        return flag
    told = torch.tensor(int(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes; itself in a single one."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def gather(value: Any) -> list[Any]:
    """The value of every process in order of rank; the same on every process."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The first process's value, on every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def gather_by_case(results: dict[str, Any]) -> dict[str, Any]:
    """The union of all processes' results, sorted by case; the same on every process."""
    return dict(sorted((case, value) for part in gather(results) for case, value in part.items()))
