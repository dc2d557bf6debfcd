"""Provide handlers for the trainer, each for one task. All have MONAI's ``attach(engine)``."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import StatsHandler, from_engine
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar
from tqdm import tqdm

from ..device import Accelerator
from ..runtime.output import LogFile
from .run_state import RunState
from .schedule import Clock, Schedule

logger = logging.getLogger("kits_unet3d.training")


class LearningRate:
    """Set the learning rate at the start of each epoch, or of each iteration if a clock is given.

    Without a clock the learning rate depends on the epoch alone.

    Args:
        optimizer: its learning rate is set.
        schedule: gives the learning rate.
        clock: its share of the time drives the schedule's polynomial; None for the epoch.

    Raises:
        ValueError: if a clock is given without a polynomial or without a time limit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, clock: Clock | None = None) -> None:
        if clock is not None and (schedule.poly_power is None or not clock.minutes):
            raise ValueError(
                f"learning_rate_by_time needs poly_power and max_minutes above 0, got {schedule.poly_power} and "
                f"{clock.minutes}"
            )
        self.optimizer, self.schedule, self.clock = optimizer, schedule, clock

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED if self.clock is None else Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        rate = self.schedule.rate(engine.state.epoch, None if self.clock is None else self.clock.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


class Evaluation:
    """Run the evaluator after the scheduled epochs and after the last one.

    A run that was killed during an evaluation begins with it when it resumes. Attach this handler after ``Resume``.

    Args:
        evaluator: evaluator to run.
        schedule: gives the epochs.
        run: contains the epoch of the last finished evaluation.
    """

    def __init__(self, evaluator: Evaluator, schedule: Schedule, run: RunState) -> None:
        self.evaluator, self.schedule, self.run = evaluator, schedule, run

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _started(self, engine: Engine) -> None:
        epoch, inside = divmod(engine.state.iteration, engine.state.epoch_length or 1)
        if inside == 0 and self.run.evaluated < engine.state.iteration and self.schedule.evaluates(epoch):
            self.evaluator.run(epoch)

    def __call__(self, engine: Engine) -> None:
        if self.schedule.evaluates(engine.state.epoch):
            self.evaluator.run(engine.state.epoch)


class StopAtTarget:
    """End the training once the evaluator's score reaches the target or collapses.

    Args:
        evaluator: evaluator that computes the score.
        metric: name of the score.
        target: target score; 0.908 in the reference.
        floor: a lower score counts as divergence; 1e-6 in the reference.
        floor_from: first epoch in which ``floor`` applies. The reference does not evaluate earlier, and a network may
            not find anything yet in an earlier evaluation.
    """

    def __init__(
        self, evaluator: Evaluator, metric: str, target: float, floor: float = 1e-6, floor_from: int = 0
    ) -> None:
        self.evaluator, self.metric, self.target = evaluator, metric, target
        self.floor, self.floor_from = floor, floor_from

    def attach(self, engine: Engine) -> None:
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self, engine)

    def __call__(self, evaluator: Engine, trainer: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        if score >= self.target:
            logger.info("%s %.5f reached the target %g", self.metric, score, self.target)
            trainer.terminate()
        elif score < self.floor:
            if trainer.state.epoch < self.floor_from:
                logger.warning("%s %.3g in epoch %d: nothing is found yet", self.metric, score, trainer.state.epoch)
                return
            logger.error(
                "%s %.3g is below %g in epoch %d: the training has diverged, and ends; lower learning_rate, lengthen "
                "warmup_epochs, or start from --weights",
                self.metric,
                score,
                self.floor,
                trainer.state.epoch,
            )
            trainer.terminate()


class StopAfter:
    """End the training with the step that uses up its time, then evaluate a last time.

    The epoch of that step is cut short: its end follows at once, with the evaluation. A run that continues with its
    time used up ends before its first step; it is evaluated first if that evaluation was interrupted.

    Args:
        clock: counts wall-clock time, evaluations included, over all starts of the run.
        evaluator: run once more when the time is up.
        run: finishes its accumulated batches first, and knows the last evaluation. None for a step of one batch.
    """

    def __init__(self, clock: Clock, evaluator: Evaluator | None = None, run: RunState | None = None) -> None:
        self.clock, self.evaluator, self.run = clock, evaluator, run

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _started(self, engine: Engine) -> None:
        if engine.state.iteration > 0 and self.clock.up:
            logger.info("the %g minutes of this run are used; raise max_minutes to continue", self.clock.minutes)
            if self.evaluator is not None and self.run is not None and self.run.evaluated < engine.state.iteration:
                self.evaluator.run(math.ceil(engine.state.iteration / (engine.state.epoch_length or 1)))
            engine.terminate()
        self.clock.start()

    def _after_iteration(self, engine: Engine) -> None:
        if (self.run is None or self.run.step.finished(engine)) and self.clock.up:
            engine.terminate_epoch()

    def __call__(self, engine: Engine) -> None:
        if self.clock.up:
            logger.info("stopping after %g minutes, in epoch %d", self.clock.minutes, engine.state.epoch)
            if self.evaluator is not None and self.evaluator.state.epoch != engine.state.epoch:
                self.evaluator.run(engine.state.epoch)
            engine.terminate()


class Curves:
    """Append curves to a TensorBoard file, as the ``summary_writer`` of MONAI's handlers.

    torch's own writer ends a training when its directory is deleted or the disk is full, and loses two minutes of
    curves in a kill. Here a deleted directory is made again, and other errors are logged once.

    Args:
        directory: directory of the file.
    """

    def __init__(self, directory: str | Path) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(directory) / name
        self.failed = False

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        """Append a point of the curve ``tag``."""
        self._append(Event(wall_time=time.time(), step=global_step, summary=scalar(tag, value)))

    def flush(self) -> None:
        """Do nothing: each point is in the file already."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _append(self, event: Event) -> None:
        events = [event] if self.path.exists() else [Event(wall_time=time.time(), file_version="brain.Event:2"), event]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as stream:
                for one in events:
                    RecordWriter(stream).write(one.SerializeToString())
        except OSError as error:
            if not self.failed:
                logger.warning("%s: curves cannot be written (%s); the training goes on", self.path, error.strerror)
            self.failed = True


class Log:
    """Append the run's messages, and loss and learning rate of each epoch, to ``kits-unet3d.log``.

    Attach it before the other handlers, in the first process alone.

    Args:
        directory: directory of the file.
        accelerator: is described in it.
    """

    def __init__(self, directory: str | Path, accelerator: Accelerator) -> None:
        self.file, self.accelerator = LogFile(directory, everything=True), accelerator
        self._loss = from_engine("loss", first=True)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self.file.close)

    def _started(self) -> None:
        self.file.__enter__()  # after an error it stays open for the message
        logger.debug("device: %s", self.accelerator.describe())

    def _epoch(self, engine: Engine) -> None:
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        loss, state = float(self._loss(engine.state.output)), engine.state
        logger.debug("epoch %d, step %d: loss %.5f, learning rate %.3g", state.epoch, state.iteration, loss, rate)


class ScoreLog(StatsHandler):
    """Print an evaluation's scores like MONAI's handler, which also prints a traceback of each error and signal."""

    def exception_raised(self, _engine: Engine, error: BaseException) -> None:
        raise error  # ignite leaves this to the handler; whoever started the run reports it


class Progress:
    """Show a progress bar with the loss, over the run's time if it is limited, else over its epochs.

    Args:
        clock: clock of the run; None for a bar over epochs.
        desc: text in front of the bar.
    """

    def __init__(self, clock: Clock | None = None, desc: str = "train") -> None:
        self.clock, self.desc = clock, desc
        self._loss = from_engine("loss", first=True)  # the trainer decollates, as MONAI's own handlers expect
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        timed = self.clock is not None and self.clock.minutes is not None
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED if timed else Events.EPOCH_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if self.clock is not None and self.clock.minutes is not None:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:g} min{postfix}"
            done = min(self.clock.seconds / 60, self.clock.minutes)
            self.bar = tqdm(desc=self.desc, total=self.clock.minutes, initial=done, bar_format=layout)
        else:
            self.bar = tqdm(desc=self.desc, total=engine.state.max_epochs, initial=engine.state.epoch, unit="epoch")

    def _update(self, engine: Engine) -> None:
        if self.bar is None:
            return
        self.bar.set_postfix(step=engine.state.iteration, loss=float(self._loss(engine.state.output)), refresh=False)
        done: float = engine.state.epoch
        if self.clock is not None and self.clock.minutes is not None:
            done = min(self.clock.seconds / 60, self.clock.minutes)
        self.bar.update(done - self.bar.n)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
