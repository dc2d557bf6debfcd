"""Lock a directory for one run, so that two runs do not write into it at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .errors import UsageError

try:
    import fcntl
except ModuleNotFoundError:  # without it a second run is not kept out
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@contextmanager
def only_run(
    directory: str | Path, advice: str = "wait for it, or choose another directory", wait: bool = False
) -> Iterator[None]:
    """Create the directory and lock other runs out of it during the block; a killed run leaves no lock.

    Of a run with several processes, only one, such as rank 0, locks the directory.

    Args:
        directory: directory to create and lock.
        advice: what the user of the second run can do, for its error message.
        wait: wait until the other run has ended, instead of refusing.

    Raises:
        UsageError: if another run is writing there, or nothing can be written there.
    """
    directory = Path(directory)
    path = directory / LOCK_FILE
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stream = open(path, "a")  # noqa: SIM115
        except OSError as error:
            raise UsageError(
                f"{directory}: nothing can be written there ({error.strerror}); choose another directory, or "
                "make it writable"
            ) from error
        with stream:
            if _lock(stream, path, wait):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        if not wait:
            raise UsageError(f"{directory}: another run is writing there; {advice}")


def _lock(stream: TextIO, path: Path, wait: bool) -> bool:
    """Lock the open file ``path`` and return whether no other run has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # The previous run may have removed it between our opening and locking, and a third run created another.
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # a file system without locks
        return True
