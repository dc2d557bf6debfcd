"""How much memory there is, or may be used."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UsageError

GB = 1e9
#: Of Python with torch, MONAI and a small network, before any scan.
LIBRARIES = 0.7 * GB
UNITS = {"": GB, "g": GB, "gb": GB, "m": 1e6, "mb": 1e6, "t": 1e12, "tb": 1e12}


def parse_memory(text: str) -> float:
    """Bytes from ``4``, ``4GB`` or ``500MB``; a number alone is in GB.

    Raises:
        UsageError: if it is neither.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", text.strip().lower())
    if not match or match.group(2) not in UNITS or float(match.group(1)) == 0:
        raise UsageError(f"max-memory must be a size such as 4GB or 500MB, got {text!r}")
    return float(match.group(1)) * UNITS[match.group(2)]


def memory_limit(given: str | float | None) -> float:
    """Bytes that may be used: as :func:`parse_memory` reads them, or what is free if nothing is given."""
    return available_bytes() if given is None else parse_memory(str(given))


def available_bytes() -> float:
    """What this machine, or the container it runs in, has free; infinite where that cannot be told."""
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
