"""Determine the free memory, the memory limit and the share of the CPU, in a container too."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import UsageError

GB = 1e9
#: Memory of Python with torch, MONAI and a small network, without a scan.
LIBRARIES = 0.7 * GB
#: Directory of a container's limits.
CGROUPS = Path("/sys/fs/cgroup")
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
    except (OSError, ValueError, IndexError):
        pass  # another system
    return min(*free, container_bytes())


def container_bytes(root: Path = CGROUPS) -> float:
    """Return the bytes that a container's limit leaves; infinity without one.

    Cached files count as used there, but the kernel drops the inactive ones before it refuses memory.
    """
    free = [float("inf")]
    for limit, used, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (root / limit).read_text(encoding="ascii").strip()
            if most.isdigit():
                statistics = (root / limit).with_name("memory.stat").read_text(encoding="ascii").splitlines()
                dropped = sum(float(line.split()[1]) for line in statistics if line.split()[0] == inactive)
                free.append(float(most) - float((root / used).read_text(encoding="ascii")) + dropped)
        except (OSError, ValueError, IndexError):
            pass  # no container, or one of the other kind
    return min(free)


def cpu_share(root: Path = CGROUPS) -> float:
    """Return the CPUs that a container may use, such as 1.5; infinity without a quota."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return float("inf")
    return float(quota) / float(period) if quota.isdigit() and period.isdigit() else float("inf")


def use_cpu_share() -> None:
    """Let torch, once it is imported, use as many threads as a container's quota allows, unless the user chose."""
    share = cpu_share()
    if share < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(share))))
