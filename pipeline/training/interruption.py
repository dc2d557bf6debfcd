"""Finish the step, save the state and exit with code 130 on Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from ..runtime import distributed
from .ending import stop_workers, stop_workers_at_exit
from .step import TrainStep

logger = logging.getLogger("kits_unet3d.training")
EXIT_CODE = 130


class Interruption:
    """Catch signals while the trainer runs, fire ``Events.INTERRUPT`` to save the state, and end the program.

    During an evaluation the program ends at once, because the state was saved before it.

    A second signal later ends the program without waiting for the step. The data workers are stopped at every end.

    Args:
        step: step of the trainer; it is finished first.
        evaluator: evaluator that the trainer runs.
    """

    #: SIGHUP arrives when a terminal closes; a program started under ``nohup`` goes on ignoring it.
    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
    #: A second signal within so many seconds repeats the first: a launcher forwards what the terminal sent to all.
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
            logger.warning("interrupted in epoch %d; continue with `--resume True`", engine.state.epoch)
            raise SystemExit(EXIT_CODE)

    def _during_evaluation(self) -> None:
        if self.asked_at is not None:
            logger.warning("interrupted in an evaluation; continue with `--resume True`")
            raise SystemExit(EXIT_CODE)
