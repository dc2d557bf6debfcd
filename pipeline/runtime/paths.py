"""Find the files of the bundle and the cache of the user."""

from __future__ import annotations

import os
from pathlib import Path

#: Directory of this project's packages: that of the checkout, or ``kits_unet3d`` of an installation.
PACKAGES = Path(__file__).parents[2]


def bundle_directory() -> Path:
    """Return the bundle's directory: ``bundle`` of the current directory, else the one installed with this package."""
    here = Path("bundle")
    return here if (here / "configs" / "metadata.json").is_file() else PACKAGES / "bundle"


def config_file(given: str) -> str:
    """Return the file of a configuration: the path itself, or the bundle's configuration of that name.

    Args:
        given: path of a file, or a name such as ``train`` or ``dynunet_ds.json``. A path to nothing is returned as
            it is.
    """
    path = Path(given)
    if path.is_file() or len(path.parts) != 1:
        return given
    named = bundle_directory() / "configs" / f"{given.removesuffix('.json')}.json"
    return str(named) if named.is_file() else given


def user_cache() -> Path | None:
    """Return this program's directory in the user's cache (``XDG_CACHE_HOME``); None for a user without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = given if given.is_absolute() else Path.home() / ".cache"  # a relative one is invalid by its standard
    except RuntimeError:
        return None
    return root / "kits-unet3d"
