"""Determine the free memory, the memory limit and the share of the CPU, in a container too."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from .errors import UsageError

GB = 1e9
#: Memory of Python with torch, MONAI and a small network, without a scan.
LIBRARIES = 0.7 * GB
#: Directory of a container's limits.
CGROUPS = Path("/sys/fs/cgroup")
#: File with the groups of this process; each may have limits.
GROUPS = Path("/proc/self/cgroup")
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


def container_bytes(root: Path = CGROUPS, groups: Path = GROUPS) -> float:
    """Return the bytes that the limits of a container or a batch system's job leave; infinity without one.

    Cached files count as used there, but the kernel drops the inactive ones before it refuses memory.

    Args:
        root: where the limits are mounted.
        groups: file with the groups of this process.
    """
    free = [float("inf")]
    for kind, limit, used, inactive in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for directory in _directories(root, groups, kind):
            try:
                most = (directory / limit).read_text(encoding="ascii").strip()
                if most.isdigit():
                    statistics = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
                    dropped = sum(float(line.split()[1]) for line in statistics if line.split()[0] == inactive)
                    free.append(float(most) - float((directory / used).read_text(encoding="ascii")) + dropped)
            except (OSError, ValueError, IndexError):
                pass  # no limit, or one of the other kind
    return min(free)


def cpu_share(root: Path = CGROUPS, groups: Path = GROUPS) -> float:
    """Return the CPUs that a container or a batch system's job may use, such as 1.5; infinity without a quota."""
    shares = [float("inf")]
    for kind in ("", "cpu"):
        for directory in _directories(root, groups, kind):
            try:
                if kind:
                    quota = (directory / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
                    period = (directory / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
                else:
                    quota, period = (directory / "cpu.max").read_text(encoding="ascii").split()[:2]
            except (OSError, ValueError):
                continue
            if quota.isdigit() and period.isdigit():  # else "max" or -1
                shares.append(float(quota) / float(period))
    return min(shares)


def _directories(root: Path, groups: Path, kind: str) -> list[Path]:
    """Return the directories of this process's group and of all groups above it, for one kind of limits.

    Args:
        root: where the limits are mounted.
        groups: file with a line ``number:kinds:/path`` for each group of this process.
        kind: kind of limits of cgroup version 1, or empty for version 2, which has a single group.
    """
    top = root / kind
    try:
        lines = [line.split(":", 2) for line in groups.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return [top]
    path = next((path for _, kinds, path in lines if kind in kinds.split(",")), "/")
    inside = top / path.strip("/")
    # In a container the top is its own group. The file may name the host's path, which does not exist there.
    return [directory for directory in (inside, *inside.parents) if directory.is_relative_to(top)]


def use_cpu_share() -> None:
    """Let torch, imported or not, use as many threads as a container's quota allows, unless the user chose a number."""
    share = cpu_share()
    if share < (os.cpu_count() or 1) and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, int(share))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(min(threads, torch.get_num_threads()))
