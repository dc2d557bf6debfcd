"""Parse configuration values given as text on a command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UsageError
from .files import EXPRESSIONS

#: Text, even if it looks like a number: paths and names. Their defaults, null or expressions, do not show the type.
TEXT = {
    "bundle_root", "ckpt_dir", "ckpt_path", "dataset_dir", "input", "max_memory", "output_dir", "series",
    "submission_platform", "trust", "weights",
}  # fmt: skip
#: True, false or a path.
SWITCHES_OR_TEXT = {"resume"}
#: Whole numbers and their minimum.
COUNTS = {
    "accumulation_steps": 1, "batch_size": 1, "epochs": 1, "evaluate_every": 1, "evaluation_cases": 1,
    "first_evaluation": 1, "fold": 0, "folds": 2, "save_every": 1, "training_cases": 1, "volume": 1,
    "workers": 0,
}  # fmt: skip
NUMBERS = {"average_decay", "crop_component_power", "hu_offset", "max_minutes", "poly_power"}
SWITCHES = {"html_report"}
LISTS = {"class_weights", "crop_class_weights", "spacing"}
KNOWN = {*TEXT, *SWITCHES_OR_TEXT, *COUNTS, *NUMBERS, *SWITCHES, *LISTS}
WORDS = {"true": True, "1": True, "false": False, "0": False}


def typed(key: str, text: str, contents: Sequence[Mapping[str, Any]]) -> Any:
    """Parse the text of an override as the type of the value that it overrides.

    Text for a key without a known type becomes a Python or JSON value if it is one. ``None`` (for keys that do not
    hold text also ``null``), expressions and references (``$…``, ``@…``, ``%…``) are always possible.

    Args:
        key: such as ``epochs`` or ``train::trainer::max_epochs``.
        text: value as the user wrote it.
        contents: contents of the configuration files, in their order.

    Raises:
        UsageError: if the text is not of that type.
    """
    if text.startswith(EXPRESSIONS):
        return text
    if text == "None":
        return None
    name, default = _origin(key, contents)
    if name in SWITCHES_OR_TEXT:
        return WORDS.get(text.lower(), _unquoted(text))
    if name in TEXT or isinstance(default, str):
        return _unquoted(text)
    return None if text == "null" else _checked(key, text, name, default)


def protected(value: Any) -> Any:
    """Return a value for MONAI's parser, which replaces ``#`` by ``::`` in any text outside an expression."""
    if isinstance(value, list):
        return [protected(element) for element in value]
    if not isinstance(value, str) or "#" not in value or value.startswith(EXPRESSIONS):
        return value
    return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40")


def require_types(contents: Sequence[Mapping[str, Any]]) -> None:
    """Raise a UsageError if an overlay gives text for a number, a list, or true or false.

    Args:
        contents: contents of the configuration files; the first is complete, the others are overlays.
    """
    for overlay in contents[1:]:
        for key, value in overlay.items():
            if isinstance(value, str) and not value.startswith(EXPRESSIONS) and not key.startswith("+"):
                name, default = _origin(key, contents[:1])
                if name in KNOWN - TEXT - SWITCHES_OR_TEXT or (
                    name not in KNOWN and isinstance(default, (bool, int, float, list))
                ):
                    raise UsageError(f"{key} must be {_kind(name, default)}, got the text {value!r}")


def _origin(key: str, contents: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """Follow references from a key to the entry with a plain value or a known type; return its key and first value."""
    followed = set()
    while True:
        path = re.split(r"#|::", key)
        values = [value for content in contents if (value := _value(path, content)) is not None]
        plain = [value for value in values if not (isinstance(value, str) and value.startswith(EXPRESSIONS))]
        references = [value[1:] for value in values if isinstance(value, str) and value.startswith("@")]
        followed.add(key)
        if plain or not references or references[0] in followed or key in KNOWN:
            return key, plain[0] if plain else None
        key = references[0]


def _value(path: Sequence[str], content: Any) -> Any:
    for name in path:
        if isinstance(content, list) and name.isdigit() and int(name) < len(content):
            content = content[int(name)]
        else:
            content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _kind(name: str, default: Any) -> str:
    if name in COUNTS:
        return f"a whole number, at least {COUNTS[name]}"
    if name in SWITCHES or isinstance(default, bool):
        return "true or false"
    if name in NUMBERS or isinstance(default, (int, float)):
        return "a number"
    return "a list" + (f" such as {default}" if default else "")


def _checked(key: str, text: str, name: str, default: Any) -> Any:
    """Parse text that is not meant as text."""
    value = _literal(text)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if name in COUNTS:
        valid = number and value == int(value) >= COUNTS[name]
        value = int(value) if valid else value
    elif name in SWITCHES or isinstance(default, bool):
        value = WORDS.get(text.lower())
        valid = value is not None
    elif name in NUMBERS or isinstance(default, (int, float)):
        valid = number
        value = float(value) if valid and isinstance(default, float) else value
    elif name in LISTS or isinstance(default, list):
        value = list(value) if isinstance(value, tuple) else value
        kinds = {_element(element) for element in default or []} or ({float} if name in LISTS else set())
        valid = isinstance(value, list) and (len(kinds) != 1 or {_element(element) for element in value} <= kinds)
        if valid and default and all(type(element) is int for element in default):  # sizes and counts
            valid = all(element == int(element) for element in value)
            value = [int(element) for element in value] if valid else value
    else:
        return value
    if not valid:
        raise UsageError(f"{key} must be {_kind(name, default)}, got {text!r}")
    return value


def _element(value: Any) -> type:
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


def _literal(text: str) -> Any:
    """Parse a Python or JSON value; words in lists need no quotes. Other text stays text."""
    from fire.parser import DefaultParseValue  # the parser of MONAI's command line

    words = {"true": True, "false": False}
    if text in words:
        return words[text]
    if "#" in text:  # Fire takes the rest as a comment
        try:
            return ast.literal_eval(text) if text[:1] in "[{('\"" else text
        except (ValueError, SyntaxError):
            return text
    return DefaultParseValue(text)


def _unquoted(text: str) -> str:
    """Remove the quotes around a text, which Fire needs for some texts."""
    if text[:1] in ("'", '"'):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        return value if isinstance(value, str) else text
    return text
