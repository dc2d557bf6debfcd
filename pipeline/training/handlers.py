"""Handlers of the trainer; each does one thing. All have MONAI's ``attach(engine)``."""

from __future__ import annotations

import logging

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import from_engine
from tqdm import tqdm

from .run_state import RunState
from .schedule import Clock, Schedule
from .step import TrainStep

logger = logging.getLogger("kits_unet3d.training")


class LearningRate:
    """Sets the optimiser's rate at the start of each epoch, which alone decides it; or, by a clock, of each iteration.

    Args:
        optimizer: whose rate is set.
        schedule: says which.
        clock: by whose share of the time the schedule's polynomial falls; None for by epochs.

    Raises:
        ValueError: if the rate shall fall by time and there is no polynomial, or no limit of the time.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, clock: Clock | None = None) -> None:
        if clock is not None and (schedule.poly_power is None or not clock.minutes):
            raise ValueError(
                f"rate_by_time needs poly_power and max_minutes above 0, got {schedule.poly_power} and {clock.minutes}"
            )
        self.optimizer, self.schedule, self.clock = optimizer, schedule, clock

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED if self.clock is None else Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        rate = self.schedule.rate(engine.state.epoch, None if self.clock is None else self.clock.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


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
    """End the training after the step in which its time is up, with a last evaluation.

    The epoch of that step is cut short: what is done at the end of an epoch is done then, the evaluation among it. A
    run that continues with its time used up ends before its first step.

    Args:
        clock: counts wall-clock time, evaluations included, over all starts of the run.
        evaluator: run once more when the time is up.
        step: of the trainer; its accumulated batches are finished first. None for a step of one batch.
    """

    def __init__(self, clock: Clock, evaluator: Evaluator | None = None, step: TrainStep | None = None) -> None:
        self.clock, self.evaluator, self.step = clock, evaluator, step

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _started(self, engine: Engine) -> None:
        if engine.state.iteration > 0 and self.clock.up:
            logger.info("the %g minutes of this run are used up; raise max_minutes to continue", self.clock.minutes)
            engine.terminate()
        self.clock.start()

    def _after_iteration(self, engine: Engine) -> None:
        if (self.step is None or self.step.finished(engine)) and self.clock.up:
            engine.terminate_epoch()

    def __call__(self, engine: Engine) -> None:
        if self.clock.up:
            logger.info("stopping after %g minutes, in epoch %d", self.clock.minutes, engine.state.epoch)
            if self.evaluator is not None and self.evaluator.state.epoch != engine.state.epoch:
                self.evaluator.run(engine.state.epoch)
            engine.terminate()


class Progress:
    """Show a bar with the loss: over the run's time where that is limited, else over its epochs.

    Args:
        clock: of the run; None for a bar over epochs.
        desc: text in front of the bar.
    """

    def __init__(self, clock: Clock | None = None, desc: str = "train") -> None:
        self.clock, self.desc = clock, desc
        self._loss = from_engine("loss", first=True)  # of a trainer that decollates, as MONAI's own handlers expect
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        timed = self.clock is not None and self.clock.minutes is not None
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED if timed else Events.EPOCH_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if self.clock is not None and self.clock.minutes is not None:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:g} min{postfix}"
            self.bar = tqdm(desc=self.desc, total=self.clock.minutes, bar_format=layout)
        else:
            self.bar = tqdm(desc=self.desc, total=engine.state.max_epochs, initial=engine.state.epoch, unit="epoch")

    def _update(self, engine: Engine) -> None:
        if self.bar is None:
            return
        self.bar.set_postfix(step=engine.state.iteration, loss=float(self._loss(engine.state.output)), refresh=False)
        done = engine.state.epoch
        if self.clock is not None and self.clock.minutes is not None:
            done = min(self.clock.seconds / 60, self.clock.minutes)
        self.bar.update(done - self.bar.n)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
