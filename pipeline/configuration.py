"""What the command line takes from a bundle's configuration."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

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
