"""What the command line takes from a bundle's configuration."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import Recipe

from .errors import UsageError


def recipe_of(config: str | Path | None) -> Recipe:
    """The recipe with the entries that ``config`` (JSON) gives at its top level; the reference's without one.

    Only plain values are taken; nothing in the file is run.

    Raises:
        UsageError: if the file cannot be used.
    """
    if config is None:
        return Recipe()
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
        names = {field.name for field in fields(Recipe)}
        return Recipe.from_dict({name: value for name, value in content.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{config}: no usable configuration ({error})") from error


def section(name: str, *configs: str | Path) -> dict[str, Any]:
    """The plain values of the entry ``name``, a dictionary, of a configuration (JSON) and its overlays.

    A reference to a top-level entry (``"@channels"``) is followed; other references and expressions (``"$…"``) are
    left out, and nothing in the files is run. ``_target_`` is the only underscored entry kept.

    Raises:
        UsageError: if a file cannot be used.
    """
    content: dict[str, Any] = {}
    try:
        for config in configs:
            content |= json.loads(Path(config).read_text(encoding="utf-8"))
        found = dict(content[name])
    except (OSError, ValueError, TypeError, KeyError) as error:
        given = ", ".join(map(str, configs))
        raise UsageError(f"{given}: no usable configuration ({error}); name the bundle's train.json") from error
    followed = {
        key: content.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
        for key, value in found.items()
        if key == "_target_" or not key.startswith("_")
    }
    return {key: value for key, value in followed.items() if not str(value).startswith(("$", "@"))}
