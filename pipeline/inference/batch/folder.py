"""The folder that a batch writes into: tried before, and nobody else's while it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import UsageError

try:
    import fcntl
except ModuleNotFoundError:  # a system without it, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]


def require_writable(folder: str | Path) -> Path:
    """Tries the folder, or the one it will be made in, so that nobody waits for results that cannot be kept.

    Raises:
        UsageError: if nothing can be written there.
    """
    folder = Path(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        # Without a name of its own, so that processes do not meet, and none is left behind.
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UsageError(
            f"{folder}: nothing can be written there ({error.strerror}); choose another folder, or free it"
        ) from error
    return folder


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it for the time of the block; a killed run keeps out nobody.

    Raises:
        UsageError: if another run is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = folder / ".lock"
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it between our opening and locking, and a third have made another.
            alone = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            alone = False
        except OSError:  # a file system that locks nothing
            alone = True
        if not alone:
            raise UsageError(
                f"{folder}: another run is writing there; wait for it, choose another folder, or share one run out "
                "with torchrun"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
