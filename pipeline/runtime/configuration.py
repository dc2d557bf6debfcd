"""What the command line takes from a bundle's configuration, and which of its keys are known."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import Recipe

from .errors import UsageError, errors_reported


def recipe_of(config: str | Path | None) -> Recipe:
    """The recipe with the entries that ``config`` (JSON) gives at its top level; the reference's without one.

    Only plain values are taken; nothing in the file is run.

    Raises:
        UsageError: if the file cannot be used, or has an entry that nothing reads: neither it nor the training's
            configuration, which is the ``train.json`` beside it or else the bundle's.
    """
    if config is None:
        return Recipe()
    names = {field.name for field in fields(Recipe)}
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
        places = (Path(config).with_name("train.json"), Path("bundle") / "configs" / "train.json")
        training = next((path for path in places if path.is_file()), None)
        # Where there is none, nothing tells what else is read.
        if training and (found := unread_key([json.loads(training.read_text(encoding="utf-8")), content])):
            raise UsageError(unknown_key(*found))
        return Recipe.from_dict({name: value for name, value in content.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{config}: no usable configuration ({error})") from error


def section(name: str, *configs: str | Path) -> dict[str, Any]:
    """The plain values of the entry ``name``, a dictionary, of a configuration (JSON) and its overlays.

    A reference to a top-level entry (``"@channels"``) is followed; other references and expressions (``"$…"``) are
    left out, and nothing in the files is run. ``_target_`` is the only underscored entry kept.

    Raises:
        UsageError: if a file cannot be used, or an overlay has an entry that nothing reads.
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
        raise UsageError(f"{given}: no usable configuration ({error}); name the bundle's train.json") from error
    followed = {
        key: content.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
        for key, value in found.items()
        if key == "_target_" or not key.startswith("_")
    }
    return {key: value for key, value in followed.items() if not str(value).startswith(("$", "@"))}


def unread_key(configs: Sequence[Mapping[str, Any]], overrides: Iterable[str] = ()) -> tuple[str, str | None] | None:
    """The first key of ``overrides`` or of the overlays that nothing reads, and the nearest known one if any is near.

    Args:
        configs: contents of the configuration files; the first is whole, the others lie upon it. Of theirs, what
            the first has or any of them refers to (``@key``, ``%key``) is read.
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
            # An entry may be added to a component, whose class knows its own arguments, and to nothing else.
            if not isinstance(content, Mapping) or (name not in content and "_target_" in content):
                break
            if name not in content:
                near = _nearest(name, content)
                return key, near and "::".join([*path[:depth], near])
            content = content[name]
    return None


def unknown_key(key: str, near: str | None) -> str:
    """What :func:`unread_key` found, as a sentence."""
    way_out = f"the nearest known one is {near}" if near else "see the first configuration"
    return f"unknown key {key}, which nothing reads; {way_out}"


def _nearest(key: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(key, sorted(known), n=1)), None)


def require_known_keys(argv: Sequence[str] | None = None) -> None:
    """Ends ``python -m monai.bundle run …`` with one sentence and exit code 2 if its command line, or an overlay on it,
    has a key that nothing reads, or its command line gives a key the value None; MONAI would take the one and leave out
    the other without a word. Does nothing in any other program.

    Args:
        argv: of the process, if not given.
    """
    argv = sys.argv if argv is None else argv
    program = Path(argv[0]).parts[-3:] if argv else ()
    if program != ("monai", "bundle", "__main__.py") or argv[1:2] not in (["run"], ["run_workflow"]):
        return
    from monai.bundle import ConfigParser, ConfigWorkflow, run, run_workflow
    from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

    flags = _flags(argv[2:])
    settings_file = ConfigParser.load_config_file(flags["args_file"]) if "args_file" in flags else {}
    given = {**settings_file, **flags}
    files = given.get("config_file", [])
    configs = [ConfigParser.load_config_file(file) for file in ([files] if isinstance(files, str) else files)]
    if not configs:
        return
    monais = (run, run_workflow, ConfigWorkflow)
    own = {name for function in monais for name in signature(function).parameters} | {"_meta_"}
    settings: Any = DEFAULT_MLFLOW_SETTINGS
    own |= set(settings["configs"]) if "tracking" in given else set()
    found = unread_key(configs, [key for key in given if re.split("#|::", key)[0] not in own])
    merged: dict[str, Any] = {}
    for config in (*configs, settings_file):
        merged |= config
    parser = ConfigParser(merged)
    values = {key: parser.get(key) for key, value in flags.items() if value is None}
    nothing = next((key for key, value in values.items() if value is not None), None)
    with errors_reported():
        if found is not None:
            raise UsageError(unknown_key(*found))
        if nothing is not None:  # MONAI drops it without a word, and the configuration's own value stays
            raise UsageError(
                f"--{nothing} None: MONAI would leave it at {values[nothing]}; "
                f"write {json.dumps({nothing: None})} to a file, and name that after the others of --config_file"
            )


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    """``--key value`` and ``--key=value`` as Fire reads them."""
    flags: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        if re.match(r"--?[A-Za-z_]", argument):
            key, equals, value = argument.lstrip("-").partition("=")
            text = value if equals else next(iter(arguments[position + 1 : position + 2]), "True")
            try:
                parsed = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                parsed = text
            flags[key.replace("-", "_")] = parsed
    return flags
