"""Write files of ``torch.save``, and report a full disk as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .errors import UsageError


def save(content: Any, path: str | Path) -> None:
    """Write ``content`` to ``path`` by ``torch.save``.

    Raises:
        UsageError: if the disk or a quota is full. torch reports only an unexpected position in the file.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:
        try:
            with open(path, "ab") as stream:
                stream.write(bytes(1 << 20))
        except OSError as full:
            raise UsageError(
                f"{Path(path).parent}: cannot be written ({full.strerror}); free disk space, then run the command again"
            ) from error
        raise
