"""Describe an accelerator and its software, and report whether the two are a known pair."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..device import KINDS, TESTED, Accelerator, Kind

UNKNOWN = "unknown"


def describe_card(accelerator: Accelerator) -> dict[str, str]:
    """Describe an accelerator in words: driver, vendor's libraries, memory, link, known pair, and the fitting versions.

    For a CPU only the fitting versions are described. A fact that cannot be read is ``"unknown"``, not an error.
    """
    kind, about = KINDS.get(accelerator.kind, Kind()), accelerator.describe()
    described = {"tested versions": fitting_set(about["torch"])}
    if accelerator.on_cpu:
        return described
    plugin = about["runtime"] if kind.pairs else ""
    return {
        "driver": _driver(kind.driver),
        "libraries": _libraries(kind.libraries, about["runtime"]),
        "memory": _memory(accelerator),
        "link": _link(accelerator),
        "torch and its package": known_pair(kind.pairs, about["name"], plugin, about["torch"]),
        **described,
    }


def _numbers(text: str) -> tuple[int, ...]:
    """Return the major and minor number of the first version in ``text``, or nothing."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def fitting_set(torch_version: str) -> str:
    """Return the file of tested versions that fits a torch, and the MONAI in it beside the installed one."""
    fitting = [entry for entry in TESTED if _numbers(entry[0]) <= _numbers(torch_version)]
    if not fitting:
        return f"none; torch {torch_version} is older than {TESTED[0][0]}"
    try:
        installed = version("monai")
    except PackageNotFoundError:
        installed = "absent"
    _, file, monai = fitting[-1]
    return f"{file} with MONAI {monai}; MONAI {installed} is installed"


def known_pair(
    pairs: Sequence[tuple[str, str, str, tuple[str, ...]]], name: str, plugin: str, torch_version: str
) -> str:
    """Report whether the vendor's package and torch are a known pair for an accelerator.

    Args:
        pairs: known pairs of this kind of device, see :class:`~kits_unet3d.pipeline.device.Kind`.
        name: name of the accelerator, as its package reports it.
        plugin: the package's name and version; empty for a device that torch itself supports.
        torch_version: torch's version.
    """
    if not plugin:
        return f"torch {torch_version} brings the device itself"
    package = plugin.split()[0]
    known = [pair[1:] for pair in pairs if re.match(pair[0], name)]
    if not known:
        return f"no pairs are known for the card {name}"
    for first, last, torches in known:
        if _numbers(first) <= _numbers(plugin) <= _numbers(last) and _numbers(torch_version) in map(_numbers, torches):
            return f"known for {name}: {plugin} with torch {torch_version}"
    listed = "; ".join(
        f"{package} {' to '.join(dict.fromkeys((first, last)))} with torch {' or '.join(torches)}"
        for first, last, torches in known
    )
    return f"NOT known for {name}: {plugin} with torch {torch_version}; known are {listed}"


def _driver(about: Sequence[str]) -> str:
    """Ask the vendor's own program for the version of the driver."""
    if not about:
        return UNKNOWN
    command, pattern = about
    try:
        shown = subprocess.run(command.split(), capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return f"unknown, since {command.split()[0]} does not run here"
    found = re.search(pattern, shown)
    return found[1] if found else UNKNOWN


def _libraries(about: Sequence[str], runtime: str) -> str:
    """Read the version of the vendor's libraries from their directory, or take the one that torch was built with."""
    if len(about) < 2:
        return " ".join(filter(None, [*about, runtime])) or UNKNOWN
    name, variable, default, file = about
    path = Path(os.environ.get(variable, default)) / file
    try:
        found = re.search(r"(\d+(?:\.\d+)+)", path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return f"unknown, since {path} cannot be read"
    return f"{name} {found[1]}" if found else UNKNOWN


def _memory(accelerator: Accelerator) -> str:
    total = accelerator.memory().get("total")
    return UNKNOWN if total is None else f"{total / 2**30:.1f} GiB"


def _link(accelerator: Accelerator) -> str:
    """Report between how many pairs of accelerators data can be copied without the host."""
    module = getattr(torch, accelerator.kind)
    count = int(module.device_count())
    if count < 2:
        return "a single accelerator"
    ask = getattr(module, "can_device_access_peer", None)
    if ask is None:
        return UNKNOWN
    try:
        direct = [ask(one, other) for one in range(count) for other in range(count) if one != other]
    except Exception as error:  # drivers fail in many ways
        return f"unknown ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return f"direct between {sum(map(bool, direct))} of {len(direct)} pairs of accelerators"
