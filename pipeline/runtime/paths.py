"""Check the paths that a command is given before torch is imported, which takes seconds."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError


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


def require_writable(directory: str | Path) -> Path:
    """Test that the directory, or the one it will be created in, is writable, so that no results are lost.

    Raises:
        UsageError: if nothing can be written there.
    """
    if str(directory) == "":
        raise UsageError("the output directory is empty; name one")
    directory = Path(directory)
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
