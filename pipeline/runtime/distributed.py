"""Join the processes of a run, and exchange values between them."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..device import Accelerator
from .errors import LAUNCHER, Interrupted

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def join(accelerator: Accelerator, patience: timedelta | None = None) -> int:
    """Join torchrun's process group, if there is one, and return this process's rank.

    Args:
        accelerator: accelerator whose backend connects the processes.
        patience: longest wait of one process for another; None for torch's default, half an hour at most.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        _end_with_launcher()
        store, number, size = next(rendezvous("env://"))
        if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:
            # After a restart on one host, torchrun's store still holds the addresses of the dead processes; a prefix
            # with the number of restarts hides them. Hosts may count restarts differently, so that several hosts need
            # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which makes a new store.
            store = dist.PrefixStore(f"attempt-{restarts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(accelerator.backend, store=store, timeout=patience, rank=number, world_size=size)
        # A process that ends with an open group may abort the last messages of the others.
        atexit.register(_leave)
        # ignite's first call is collective. Without this, it may run on the first process alone.
        idist.sync()
    return rank()


def _end_with_launcher() -> None:
    """Let SIGTERM end this process, as an interrupt does, when its launcher is killed; only Linux can.

    torchrun ends its processes itself, but not if SIGKILL ends it. They would continue and lock the output directory.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if LAUNCHER in os.environ and not os.path.exists(os.environ[LAUNCHER]):  # it was killed before this process asked
        raise Interrupted


def _leave(patience: float = 10.0) -> None:
    """Leave the process group while gloo's threads are idle, and wait again, each time ``patience`` seconds at most.

    gloo's threads release the tensors of the last messages after the receiving process has continued. A thread that
    does so while the interpreter shuts down aborts the process (seen with torch 2.13). A thread that does so while the
    group is destroyed causes a deadlock (torch 2.4): it waits for the GIL, whose holder waits for the thread.
    """
    if dist.is_initialized():
        _wait_for_gloo(patience)
        dist.destroy_process_group()
    _wait_for_gloo(patience)


def _wait_for_gloo(patience: float) -> None:
    until, idle = time.perf_counter() + patience, 0
    while idle < 2 and time.perf_counter() < until:
        time.sleep(0.01)  # a sleeping thread releases the GIL, which gloo's threads need
        idle = 0 if _gloo_is_busy() else idle + 1


def _gloo_is_busy() -> bool:
    """Return whether a thread of gloo's process groups is running or about to run; False where /proc is absent."""
    for thread in Path("/proc/self/task").glob("*/stat"):
        try:
            name, state = thread.read_text().rpartition(")")[::2]
        except OSError:  # the thread has ended
            continue
        if name.endswith("(pt_gloo_runloop") and state.split()[0] != "S":
            return True
    return False


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def restarts() -> int:
    """Return how often torchrun has restarted this host's processes after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def share(items: list[Any]) -> list[Any]:
    """Return every world_size-th of ``items`` for this process, without duplicates or padding."""
    return items[rank() :: world_size()]


def any_of(flag: bool) -> bool:
    """Return True on every process if ``flag`` is set on any process."""
    if world_size() == 1:
        return flag
    any_set = torch.tensor(int(flag))
    dist.all_reduce(any_set, dist.ReduceOp.MAX)
    return bool(any_set)


def mean(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes; a single process gets its own tensor back."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def gather(value: Any) -> list[Any]:
    """Return the values of all processes in order of rank, on every process."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """Return the first process's value on every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def gather_by_case(results: dict[str, Any]) -> dict[str, Any]:
    """Return the union of all processes' results, sorted by case, on every process."""
    return dict(sorted((case, value) for part in gather(results) for case, value in part.items()))
