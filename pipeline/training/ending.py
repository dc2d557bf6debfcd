"""Lock a run's directory while the trainer runs, and stop its data workers at its end."""

from __future__ import annotations

import atexit
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..runtime import distributed
from ..runtime.errors import UsageError, errors_reported
from ..runtime.lock import LOCK_FILE, only_run

#: Wait so many seconds for the remains of a killed run: its data workers hold the lock until they miss their parent.
PATIENCE = 20.0
ADVICE = "wait for it, end it, or choose another directory (`--ckpt_dir`, or `kits-unet3d train -o`)"


class DirectoryLock:
    """Keep a second training out of a directory while the trainer runs; the first process locks it for all.

    Args:
        directory: directory of the checkpoints.
        patience: seconds to wait for another run to end.
    """

    def __init__(self, directory: str | Path, patience: float = PATIENCE) -> None:
        self.directory, self.patience = Path(directory), patience
        self._held = ExitStack()
        weakref.finalize(self, self._held.close)  # also at the program's end, by whatever it ends

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.COMPLETED, self.release)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _started(self) -> None:
        """Lock the directory, or end all processes with an error message and exit code 2."""
        refusal = ""
        if distributed.rank() == 0:
            try:
                self._lock()
            except UsageError as error:
                refusal = str(error)
        refusal = distributed.from_first(refusal)
        with errors_reported():
            if refusal:
                raise UsageError(refusal)

    def _lock(self) -> None:
        until = time.perf_counter() + self.patience
        while True:
            try:
                self._held.enter_context(only_run(self.directory, ADVICE))
                return
            except UsageError:
                if time.perf_counter() > until or not (self.directory / LOCK_FILE).exists():
                    raise
            time.sleep(0.2)

    def _failed(self, error: BaseException) -> None:
        self.release()
        raise error  # ignite leaves this to the handler of an exception

    def release(self) -> None:
        """Unlock the directory; further calls do nothing."""
        self._held.close()


def stop_workers(engine: Engine) -> None:
    """Stop the data workers of ``engine`` now, in order; a further pass over its data starts new ones.

    ignite and MONAI refer to persistent workers until the interpreter exits. multiprocessing then ends them by
    SIGTERM, and torch reports an error after a run that succeeded.
    """
    loader: Any = engine.state.dataloader
    workers = getattr(loader, "_iterator", None)
    if workers is not None and hasattr(workers, "_shutdown_workers"):
        loader._iterator = None
        workers._shutdown_workers()


def stop_workers_at_exit(engine: Engine) -> None:
    """Call :func:`stop_workers` when the program ends, before multiprocessing kills them."""
    atexit.register(stop_workers, engine)
