"""Lock a run's directory, stop its data workers at its end, and save the state when a signal ends it."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from ..runtime import distributed
from ..runtime.errors import Interrupted, UsageError, errors_reported
from ..runtime.files import LOCK_FILE, only_run
from .step import TrainStep

#: Seconds to wait for the data workers of a killed run, which hold the lock until they notice that their parent ended.
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
        weakref.finalize(self, self._held.close)  # also when the program ends, for any reason

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


logger = logging.getLogger("kits_unet3d.training")


class Interruption:
    """Catch signals while the trainer runs, fire ``Events.INTERRUPT`` to save the state, and end the program.

    During an evaluation the program ends at once, because the state was saved before it.

    A second signal later ends the program without waiting for the step. The data workers are stopped in each case.

    Args:
        step: step of the trainer; it is finished first.
        evaluator: evaluator that the trainer runs.
    """

    #: SIGHUP arrives when a terminal closes; a program started under ``nohup`` continues to ignore it.
    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
    #: A second signal within this many seconds repeats the first: the terminal sends a signal to all processes, and a
    #: launcher forwards it again.
    SAME = 2.0

    def __init__(self, step: TrainStep, evaluator: Evaluator) -> None:
        self.step, self.evaluator = step, evaluator
        self.asked_at: float | None = None
        self.before: dict[int, Any] = {}
        self.process = os.getpid()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._listen)
        engine.add_event_handler(Events.STARTED, stop_workers_at_exit)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._during_evaluation)
        engine.add_event_handler(Events.COMPLETED, self._stop_listening)
        engine.add_event_handler(Events.COMPLETED, stop_workers)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals only to it
            wanted = [n for n in self.SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._ask) for number in wanted}

    def _stop_listening(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:  # a data worker, which inherited this; the current step still needs it
            return
        if self.asked_at is not None:
            if time.monotonic() - self.asked_at > self.SAME:
                raise KeyboardInterrupt
            return
        self.asked_at = time.monotonic()
        logger.warning("%s: finishing this step", signal.Signals(number).name)

    def _after_iteration(self, engine: Engine) -> None:
        if self.step.finished(engine) and distributed.any_of(self.asked_at is not None):
            engine.fire_event(Events.INTERRUPT)
            logger.warning(
                "interrupted in epoch %d; continue with `--resume True` (`kits-unet3d train`: `--resume`)",
                engine.state.epoch,
            )
            raise Interrupted

    def _during_evaluation(self) -> None:
        if self.asked_at is not None:
            logger.warning(
                "interrupted in an evaluation; continue with `--resume True` (`kits-unet3d train`: `--resume`)"
            )
            raise Interrupted
