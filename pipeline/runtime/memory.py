"""Determine the free memory and the memory limit."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UsageError

GB = 1e9
#: Memory of Python with torch, MONAI and a small network, without a scan.
LIBRARIES = 0.7 * GB
UNITS = {"": GB, "g": GB, "gb": GB, "m": 1e6, "mb": 1e6, "t": 1e12, "tb": 1e12}


def parse_memory(text: str) -> float:
    """Return the bytes of ``4``, ``4GB`` or ``500MB``; a number alone is in GB.

    Raises:
        UsageError: if ``text`` is not such a size, or 0.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", text.strip().lower())
    if not match or match.group(2) not in UNITS or float(match.group(1)) == 0:
        raise UsageError(f"max-memory must be a size such as 4GB or 500MB, got {text!r}")
    return float(match.group(1)) * UNITS[match.group(2)]


def memory_limit(given: str | float | None) -> float:
    """Return the memory limit in bytes, parsed by :func:`parse_memory`; the free memory if None."""
    return available_bytes() if given is None else parse_memory(str(given))


def available_bytes() -> float:
    """Return the free bytes of this machine or container; infinity if they are unknown."""
    free = [float("inf")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")
        free += [float(limit) - float(used)] if limit.isdigit() else []
    except (OSError, ValueError, IndexError):
        pass  # another system, or no container
    return min(free)
