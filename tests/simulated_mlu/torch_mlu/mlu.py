"""``torch.mlu``: what a program may ask of the device. Calls that change or wait for something are counted."""

from __future__ import annotations

import os
import time
from collections import Counter

import torch

NAME = "mlu"
CALLS: Counter[str] = Counter()
_current = 0


def is_initialized() -> bool:
    return True


def is_available() -> bool:
    return device_count() > 0


def is_bf16_supported() -> bool:
    """The card of another name than MLU370 has it."""
    return "MLU370" not in get_device_name()


def _is_in_bad_fork() -> bool:
    return False


def _lazy_init() -> None:
    pass


def device_count() -> int:
    """One card, unless ``MLU_VISIBLE_DEVICES`` names others. A process may use one of them."""
    visible = os.environ.get("MLU_VISIBLE_DEVICES", "0")
    return len([card for card in visible.split(",") if card])


def current_device() -> int:
    return _current


def set_device(device: int | str | torch.device) -> None:
    global _current
    CALLS["set_device"] += 1
    index = device if isinstance(device, int) else torch.device(device).index or 0
    if not 0 <= index < device_count():
        raise RuntimeError(f"invalid device ordinal {index}")
    _current = index


def synchronize(device: object = None) -> None:
    CALLS["synchronize"] += 1


def empty_cache() -> None:
    CALLS["empty_cache"] += 1


def manual_seed(seed: int) -> None:
    CALLS["manual_seed"] += 1


def manual_seed_all(seed: int) -> None:
    CALLS["manual_seed_all"] += 1


def get_rng_state(device: object = None) -> torch.Tensor:
    """The simulated device draws from the CPU's generator."""
    CALLS["get_rng_state"] += 1
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: object = None) -> None:
    CALLS["set_rng_state"] += 1
    torch.set_rng_state(state)


def memory_allocated(device: object = None) -> int:
    """Invented, as all memory figures here."""
    return 1 << 20


def max_memory_allocated(device: object = None) -> int:
    return 1 << 21


def memory_reserved(device: object = None) -> int:
    return 1 << 22


def reset_peak_memory_stats(device: object = None) -> None:
    CALLS["reset_peak_memory_stats"] += 1


def mem_get_info(device: object = None) -> tuple[int, int]:
    return 1 << 33, 1 << 34


def get_device_name(device: object = None) -> str:
    return os.environ.get("SIMULATED_MLU_NAME", "simulated MLU")


def can_device_access_peer(device: object, peer: object) -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16, torch.float32]


class Stream:
    """There is only one order of events."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Event:
    """A moment on the CPU's clock."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self.time = 0.0

    def record(self, stream: object = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return (other.time - self.time) * 1e3


def current_stream(device: object = None) -> Stream:
    return Stream()
