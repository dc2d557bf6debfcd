"""Handlers of the trainer; each does one thing. All have MONAI's ``attach(engine)``."""

from __future__ import annotations

import logging
import time

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Evaluator
from monai.handlers import from_engine

from .. import distributed
from .run_state import RunState
from .schedule import Schedule

logger = logging.getLogger("kits_unet3d.training")


class LearningRate:
    """Sets the optimiser's rate at the start of each epoch; nothing but the epoch decides it."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(engine.state.epoch)


class Evaluation:
    """Runs the evaluator after the epochs the schedule says, and after the last one.

    A run that goes on after a kill in an evaluation begins with it. Attach this after what goes on.

    Args:
        evaluator: to run.
        schedule: says when.
        run: knows which evaluation was finished last.
    """

    def __init__(self, evaluator: Evaluator, schedule: Schedule, run: RunState) -> None:
        self.evaluator, self.schedule, self.run = evaluator, schedule, run

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _started(self, engine: Engine) -> None:
        epoch, inside = divmod(engine.state.iteration, engine.state.epoch_length or 1)
        if inside == 0 and self.run.evaluated < epoch and self.schedule.evaluates(epoch):
            self.evaluator.run(epoch)

    def __call__(self, engine: Engine) -> None:
        if self.schedule.evaluates(engine.state.epoch):
            self.evaluator.run(engine.state.epoch)


class StopAtTarget:
    """Ends the training once the evaluator's score reaches the target, or has collapsed.

    Args:
        evaluator: whose score decides.
        metric: name of the score.
        target: 0.908 in the reference.
        floor: a score below it counts as diverged; 1e-6 in the reference.
    """

    def __init__(self, evaluator: Evaluator, metric: str, target: float, floor: float = 1e-6) -> None:
        self.evaluator, self.metric, self.target, self.floor = evaluator, metric, target, floor

    def attach(self, engine: Engine) -> None:
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self, engine)

    def __call__(self, evaluator: Engine, trainer: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        if score >= self.target:
            logger.info("%s %.5f reached the target %g", self.metric, score, self.target)
            trainer.terminate()
        elif score < self.floor:
            logger.error("%s %.3g is below %g: the training has diverged", self.metric, score, self.floor)
            trainer.terminate()


class StopAfter:
    """Ends the training after so many minutes, at the end of an epoch, with a last evaluation.

    Args:
        minutes: of wall-clock time; None for no limit.
        evaluator: run once more when time is up.
    """

    def __init__(self, minutes: float | None, evaluator: Evaluator | None = None) -> None:
        self.minutes, self.evaluator, self.started = minutes, evaluator, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self) -> None:
        self.started = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        if self.minutes is not None and distributed.any_of(time.monotonic() - self.started >= 60 * self.minutes):
            logger.info("stopping after %g minutes, in epoch %d", self.minutes, engine.state.epoch)
            if self.evaluator is not None and self.evaluator.state.epoch != engine.state.epoch:
                self.evaluator.run(engine.state.epoch)
            engine.terminate()


class Progress(ProgressBar):
    """A bar over epochs with the loss and the time left."""

    def __init__(self, desc: str = "train") -> None:
        super().__init__(persist=True, desc=desc)
        self._loss = from_engine("loss", first=True)  # of a trainer that decollates, as MONAI's own handlers expect

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        super().attach(
            engine,
            output_transform=lambda output: {"loss": float(self._loss(output))},
            event_name=Events.EPOCH_COMPLETED,
            closing_event_name=Events.COMPLETED,
        )
