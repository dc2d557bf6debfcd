"""Find the files of the bundle, the cache and the name of the user; check paths before torch is imported."""

from __future__ import annotations

import getpass
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError

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


def name_user() -> None:
    """Set ``USER`` to the user's number if the system lacks an entry for it, as with ``docker run --user 1234``.

    MONAI asks for the user's name when it is imported, and fails without.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


class NoCheckpointError(ValueError):
    """Report that a path is not that of a checkpoint."""

    exit_code = 3


def require_existing(*paths: str | Path | None) -> None:
    """Check that files or directories exist; None is left out.

    Raises:
        UsageError: for the first one that does not.
    """
    for path in paths:
        if path is not None and not Path(path).exists():
            raise UsageError(f"{path}: no such file or directory; check the name")


def require_checkpoints(paths: Iterable[str | Path]) -> None:
    """Check that files exist and are not zips of a bundle; their content is not read.

    Raises:
        NoCheckpointError: for the first one that is not a checkpoint.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise NoCheckpointError(
                f"{path}: no such checkpoint; train one first, or name another with --checkpoint"
                if not path.is_dir()
                else f"{path}: is a directory; name the checkpoint in it, such as {path / 'models' / 'model.pt'}"
            )
        if zipfile.is_zipfile(path):  # as torch's own files are
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("configs/metadata.json") for name in names):
                raise NoCheckpointError(
                    f"{path}: is a bundle's zip, not a checkpoint; unpack it with `kits-unet3d unpack`, then name its "
                    "models/model.pt"
                )


#: Endings of files that nobody means as the name of a directory.
FILES = (".dcm", ".ima", ".img", ".mgz", ".npy", ".npz", ".json", ".csv", ".html", ".png", ".pt", ".pth", ".zip")


def require_writable(directory: str | Path) -> Path:
    """Test that the directory, or the one it will be created in, is writable, so that no results are lost.

    Raises:
        UsageError: if nothing can be written there.
    """
    if not str(directory).strip():
        raise UsageError("the output directory is empty; name one")
    directory = Path(directory)
    if directory.suffix.lower() in FILES and not directory.exists():
        raise UsageError(f"{directory}: the ending {directory.suffix} is that of a file; name a directory")
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    try:
        # An unnamed file: processes cannot collide on it, and it is never left behind.
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UsageError(
            f"{directory}: nothing can be written there ({error.strerror}); choose another directory, or "
            "make it writable"
        ) from error
    return directory
