"""Describe an accelerator and its software, and whether they are known to go together.

The table of cards, their drivers and known pairs of torch and the vendor's package is ``cards.json``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..device import Accelerator

UNKNOWN = "unknown"


@cache
def table() -> dict[str, Any]:
    """Return the content of ``cards.json``: the sets of tested versions, and what is known of each kind of device."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("cards.json").read_text(encoding="utf-8"))
    return content


def describe_card(accelerator: Accelerator) -> dict[str, str]:
    """Describe the card in words: driver, vendor's libraries, memory, link, known pair, and the fitting versions.

    A CPU has only the last of them. A fact that cannot be read is ``"unknown"``; no error is raised.
    """
    kind, about = table().get(accelerator.kind, {}), accelerator.describe()
    described = {"tested versions": fitting_set(about["torch"])}
    if accelerator.on_cpu:
        return described
    plugin = about["runtime"] if kind.get("cards") else ""
    return {
        "driver": _driver(kind.get("driver", {})),
        "libraries": _libraries(kind.get("libraries", {}), about["runtime"]),
        "memory": _memory(accelerator),
        "link": _link(accelerator),
        "torch and its package": known_pair(kind.get("cards", []), about["name"], plugin, about["torch"]),
        **described,
    }


def _numbers(text: str) -> tuple[int, ...]:
    """Return the major and minor number of the first version in ``text``; empty if there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def fitting_set(torch_version: str) -> str:
    """Return the file of tested versions that fits a torch, and the MONAI in it beside the installed one."""
    fitting = [entry for entry in table()["sets"] if _numbers(entry["torch"]) <= _numbers(torch_version)]
    if not fitting:
        return f"none; torch {torch_version} is older than {table()['sets'][0]['torch']}"
    try:
        installed = version("monai")
    except PackageNotFoundError:
        installed = "absent"
    return f"{fitting[-1]['file']} with MONAI {fitting[-1]['monai']}; MONAI {installed} is installed"


def known_pair(cards: list[Mapping[str, Any]], name: str, plugin: str, torch_version: str) -> str:
    """Say whether the vendor's package and torch are a pair that is known for a card.

    Args:
        cards: entries of ``cards.json`` of this kind of device.
        name: the card's name as its package reports it.
        plugin: the package's name and version; empty for a device that torch itself brings.
        torch_version: torch's version.
    """
    if not plugin:
        return f"torch {torch_version} brings the device itself"
    package = plugin.split()[0]
    entry = next((card for card in cards if re.match(card["names"], name)), None)
    if entry is None:
        return f"no pairs are known for the card {name}"
    for pair in entry["pairs"]:
        first, last = map(_numbers, pair["plugin"])
        if first <= _numbers(plugin) <= last and _numbers(torch_version) in map(_numbers, pair["torch"]):
            return f"known for {name}: {plugin} with torch {torch_version}"
    pairs = [(dict.fromkeys(pair["plugin"]), pair["torch"]) for pair in entry["pairs"]]
    known = "; ".join(f"{package} {' to '.join(span)} with torch {' or '.join(torches)}" for span, torches in pairs)
    return f"NOT known for {name}: {plugin} with torch {torch_version}; known are {known}"


def _driver(about: Mapping[str, Any]) -> str:
    """Ask the vendor's own program for the version of the driver."""
    if not about:
        return UNKNOWN
    try:
        shown = subprocess.run(about["command"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return f"unknown, since {about['command'][0]} does not run here"
    found = re.search(about["pattern"], shown)
    return found[1] if found else UNKNOWN


def _libraries(about: Mapping[str, Any], runtime: str) -> str:
    """Read the version of the vendor's libraries from their directory, or take the one that torch was built with."""
    if "file" not in about:
        return " ".join(filter(None, [about.get("name", ""), runtime])) or UNKNOWN
    path = Path(os.environ.get(about["home"], about["default"])) / about["file"]
    try:
        found = re.search(about["pattern"], path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return f"unknown, since {path} cannot be read"
    return f"{about['name']} {found[1]}" if found else UNKNOWN


def _memory(accelerator: Accelerator) -> str:
    total = accelerator.memory().get("total")
    return UNKNOWN if total is None else f"{total / 2**30:.1f} GiB"


def _link(accelerator: Accelerator) -> str:
    """Say between how many pairs of accelerators data can go without the host."""
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
