"""Warm up the learning rate as the reference does, in a training that lasts minutes."""

import time

import torch
from ignite.engine import Engine, Events

#: The reference warms up over 200 of 2,659 epochs, its mean with batch 2 (MLPerf's reference points): 7.5 %.
SHARE = 200 / 2659


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
