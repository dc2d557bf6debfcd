"""Processes of one run: joining, ranks, and gathering results by case."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch.distributed as dist

from .device import Accelerator


def join(accelerator: Accelerator) -> int:
    """Joins the process group that torchrun announces, if there is one; returns this process's rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(accelerator.backend)
        # A process that ends with an open group may abort the others' last messages.
        atexit.register(_leave)
    return rank()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(items: list[Any]) -> list[Any]:
    """This process's part of ``items``: every world_size-th, nothing twice, nothing padded."""
    return items[rank() :: world_size()]


def gather_by_case(results: dict[str, Any]) -> dict[str, Any]:
    """The union of all processes' results, sorted by case; the same on every process."""
    if world_size() == 1:
        return dict(sorted(results.items()))
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, results)
    return dict(sorted((case, value) for part in parts for case, value in part.items()))
