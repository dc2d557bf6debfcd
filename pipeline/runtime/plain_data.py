"""Check data from files before they become part of a MONAI configuration, which can run code.

MONAI evaluates strings by their first character and interprets some keys, wherever they come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: MONAI evaluates strings that begin with ``$``, and resolves references after ``@`` and files after ``%``.
MARKS = ("$", "@", "%")


def require_plain(value: Any, name: str) -> None:
    """Check that ``value`` is plain data that a configuration keeps as it is, however deeply nested.

    Args:
        value: None, numbers, strings, lists, tuples and dictionaries of these.
        name: path of the value, for the error message.

    Raises:
        ValueError: if it contains an object of another type, a number that is not finite, a string that MONAI
            evaluates, or a key that MONAI interprets (``_target_``, ``a::b``); the message contains the path.
    """
    if isinstance(value, str):
        if value.strip().startswith(MARKS):
            raise ValueError(f"{name}: {value[:40]!r} begins with one of {' '.join(MARKS)}, so MONAI would evaluate it")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or key.strip().startswith((*MARKS, "_", "+", "~")) or "::" in key or "#" in key:
                raise ValueError(f"{name}: the key {str(key)[:40]!r} is not a plain name, so MONAI would interpret it")
            require_plain(item, f"{name}::{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            require_plain(item, f"{name}::{position}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not finite")
    elif value is not None and not isinstance(value, bool | int):
        raise ValueError(f"{name}: a {type(value).__name__} is not plain data")
