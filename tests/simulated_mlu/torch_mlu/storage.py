"""Files: where a tensor on the device says it came from, and how it gets back there."""

from __future__ import annotations

from typing import Any

import torch

from .memory import device_alias
from .mlu import NAME


def _location(storage: Any) -> str | None:
    return f"{NAME}:{storage.device.index}" if storage.device.type == NAME else None


def _restore(storage: Any, location: str) -> Any:
    if not str(location).startswith(NAME):
        return None
    on_cpu = torch.empty(0, dtype=torch.uint8).set_(storage)
    return device_alias(on_cpu).untyped_storage()


def register() -> None:
    torch.serialization.register_package(1, _location, _restore)
