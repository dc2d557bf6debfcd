"""Read values from a bundle's configuration for the command line, and reject unknown keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import PreprocessingParameters

from .errors import UsageError
from .paths import config_file


def parameters_of(config: str | Path | None, classes: Sequence[str] | None = None) -> PreprocessingParameters:
    """Read the preprocessing parameters in ``config`` (JSON); the reference's if None.

    They are at its top level, or in its ``preprocessing_parameters``. Only plain values are taken; nothing in the
    file is run. ``classes`` are those of a configuration that names none.

    Raises:
        UsageError: if the file cannot be used, or has an entry that neither it nor the training's configuration
            reads. The latter is the ``train.json`` beside it, or else the bundle's.
    """
    found = {} if classes is None else {"classes": tuple(classes)}
    if config is None:
        return PreprocessingParameters.from_dict(found)
    names = {field.name for field in fields(PreprocessingParameters)}
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
        places = (Path(config).with_name("train.json"), Path(config_file("train")))
        training = next((path for path in places if path.is_file()), None)
        # Without a training configuration, unread entries cannot be determined.
        if training and (unread := unread_key([json.loads(training.read_text(encoding="utf-8")), content])):
            raise UsageError(unknown_key(*unread))
        nested = {
            name: value
            for name, value in content.get("preprocessing_parameters", {}).items()
            if not name.startswith("_") and not str(value).startswith(("@", "$"))
        }
        given = {name: value for name, value in content.items() if name in names}
        return PreprocessingParameters.from_dict(found | given | nested)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{config}: not a usable configuration ({error})") from error


def section(name: str, *configs: str | Path) -> dict[str, Any]:
    """Read the plain values of the dictionary ``name`` from a configuration (JSON) and its overlays.

    References to top-level entries (``"@channels"``) are followed. Other references and expressions (``"$…"``) are
    omitted, and nothing in the files is run. ``_target_`` is the only underscored entry kept.

    Raises:
        UsageError: if a file cannot be used, or an overlay has an unread entry.
    """
    content: dict[str, Any] = {}
    contents: list[dict[str, Any]] = []
    try:
        for config in configs:
            contents.append(json.loads(Path(config).read_text(encoding="utf-8")))
            content |= contents[-1]
        found = dict(content[name])
        if unread := unread_key(contents):
            raise UsageError(unknown_key(*unread))
    except UsageError as error:
        raise UsageError(f"{', '.join(map(str, configs))}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        given = ", ".join(map(str, configs))
        raise UsageError(f"{given}: not a usable configuration ({error}); name the bundle's train.json") from error
    followed = {
        key: content.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
        for key, value in found.items()
        if key == "_target_" or not key.startswith("_")
    }
    return {key: value for key, value in followed.items() if not str(value).startswith(("$", "@"))}


def unread_key(configs: Sequence[Mapping[str, Any]], overrides: Iterable[str] = ()) -> tuple[str, str | None] | None:
    """Return the first unread key of ``overrides`` or the overlays, with a similar known key or None.

    Args:
        configs: contents of the configuration files; the first is complete, the others are overlays. A key of an
            overlay is read if the first file has it or any file refers to it (``@key``, ``%key``).
        overrides: keys, such as ``epochs`` or ``train::trainer::max_epochs``.
    """
    base = configs[0]
    referred = set(re.findall(r"[@%](\w+)", json.dumps(configs)))
    for key in [*overrides, *(key for overlay in configs[1:] for key in overlay)]:
        path = re.split(r"#|::", key.lstrip("+"))
        if path[0] not in base:
            if path[0] in referred:
                continue
            return key, _nearest(path[0], base.keys() | referred)
        content: Any = base
        for depth, name in enumerate(path):
            # Only a component may get a new entry, since its class checks its own arguments.
            if not isinstance(content, Mapping) or (name not in content and "_target_" in content):
                break
            if name not in content:
                near = _nearest(name, content)
                return key, near and "::".join([*path[:depth], near])
            content = content[name]
    return None


def unknown_key(key: str, near: str | None) -> str:
    """Format the result of :func:`unread_key` as an error message."""
    way_out = f"the nearest known one is {near}" if near else "see the first configuration"
    return f"unknown key {key}; {way_out}"


def _nearest(key: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(key, sorted(known), n=1)), None)
