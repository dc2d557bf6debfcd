"""Stop a training at a given second, record its loss by time, and warm up its learning rate by time."""

import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine

#: The reference warms up over 200 of 2,659 epochs, its mean with batch 2 (MLPerf's reference points): 7.5 %.
SHARE = 200 / 2659


class Deadline:
    """Stop the trainer after the first step that ends at or past the deadline; write `seconds,loss` of each step.

    The clock starts at the request for the first batch, as nnU-Net's does. The trainer's own `max_minutes` acts only at
    the end of an epoch, and would give a recipe with long epochs more time.

    Args:
        minutes: of training; None for no limit.
        file: CSV to write.
    """

    def __init__(self, minutes: float | None, file: str) -> None:
        self.minutes, self.file = minutes, Path(file)
        self.started: float | None = None
        self._loss = from_engine("loss", first=True)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _begin(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("seconds,loss\n", encoding="utf-8")

    def _start(self) -> None:
        if self.started is None:
            self.started = time.monotonic()

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        seconds = round(time.monotonic() - self.started, 3)  # as written, so that the file shows why it ended
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(f"{seconds:.3f},{float(self._loss(output)):.5f}\n")
        if self.minutes is not None and seconds >= 60 * self.minutes:
            engine.terminate()


class WarmUp:
    """Raise the learning rate from step to step, linearly in time, over the first 7.5 % of the training.

    The schedule's own warm-up counts epochs. Ten minutes on two cores have about fourteen, and a warm-up of one epoch
    would begin at the full learning rate.

    Args:
        optimizer: its learning rate is set; after the warm-up it stays at `learning_rate`.
        minutes: of the whole training.
        learning_rate: at the end of the warm-up.
        initial_rate: learning rate at the beginning.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, minutes: float, learning_rate: float, initial_rate: float = 1e-4
    ) -> None:
        self.optimizer, self.seconds = optimizer, 60 * minutes * SHARE
        self.learning_rate, self.initial_rate = learning_rate, initial_rate
        self.started: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def _start(self) -> None:
        if self.started is None:
            self.started = time.monotonic()

    def __call__(self) -> None:
        way = min(1.0, (time.monotonic() - self.started) / self.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_rate + (self.learning_rate - self.initial_rate) * way
