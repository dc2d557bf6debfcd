"""Schedule the learning rate, evaluations and the end by epoch (counted from 1), and count a run's time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.datasets import SIZES
from ..runtime import distributed

#: Cases of the training split; the reference counts its evaluation epochs in passes over them.
TRAINING_CASES = SIZES["training"]


def epochs_of(passes: int, samples_per_epoch: int) -> int:
    """Return the number of epochs for ``passes`` passes over the 168 training cases, rounded up.

    The reference starts evaluating after 1000 passes, evaluates every 20 passes and stops after 10000.
    """
    if samples_per_epoch < 1:
        raise ValueError(f"samples_per_epoch must be positive, got {samples_per_epoch}")
    return math.ceil(passes * TRAINING_CASES / samples_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """Hold the learning rate schedule and the evaluation epochs.

    Attributes:
        epochs: the last epoch.
        first_evaluation: epoch of the first evaluation.
        evaluate_every: epochs between evaluations after the first.
        learning_rate: learning rate after warm-up.
        warmup_epochs: epochs of the warm-up: the learning rate rises linearly from ``initial_rate``; 0 for no warm-up.
        initial_rate: learning rate at the start of warm-up.
        decay_epochs: after each of these epochs the learning rate is multiplied by ``decay_factor``.
        decay_factor: factor at each of ``decay_epochs``.
        poly_power: after warm-up the learning rate falls as (1 − share)^power. The share rises from 0 in the first
            epoch to nearly 1 in the last; nnU-Net's power is 0.9. None for the reference's steps.
    """

    epochs: int
    first_evaluation: int
    evaluate_every: int
    learning_rate: float = 0.8
    warmup_epochs: int = 200
    initial_rate: float = 1e-4
    decay_epochs: Sequence[int] = ()
    decay_factor: float = 1.0
    poly_power: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "first_evaluation", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.warmup_epochs < 0:
            raise ValueError(
                f"learning_rate must be positive and warmup_epochs not negative, "
                f"got {self.learning_rate}, {self.warmup_epochs}"
            )
        if self.poly_power is not None and (self.poly_power <= 0 or len(self.decay_epochs)):
            raise ValueError(
                "poly_power must be positive, and decay_epochs empty beside it; "
                f"got {self.poly_power} and {list(self.decay_epochs)}"
            )

    def rate(self, epoch: int, share: float | None = None) -> float:
        """Return the learning rate in ``epoch``.

        Decay begins after warm-up: a decay epoch within warm-up takes effect when warm-up ends.

        Args:
            epoch: counted from 1.
            share: elapsed share of the run, in [0, 1], for the polynomial. If not given, it follows from the epochs
                since the end of warm-up.
        """
        if epoch <= self.warmup_epochs:
            return self.initial_rate + (self.learning_rate - self.initial_rate) * epoch / self.warmup_epochs
        if self.poly_power is not None:
            if share is None:
                share = (epoch - 1 - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
            return self.learning_rate * (1 - min(share, 1.0)) ** self.poly_power
        return self.learning_rate * self.decay_factor ** sum(epoch > start for start in self.decay_epochs)

    def evaluates(self, epoch: int) -> bool:
        """Return True if an evaluation follows ``epoch``. The last epoch always ends with an evaluation."""
        past = epoch - self.first_evaluation
        return epoch == self.epochs or (past >= 0 and past % self.evaluate_every == 0)


class Clock:
    """Count a run's time over all of its starts, without the time between them.

    Args:
        minutes: time limit of the whole run; None for no limit.

    Attributes:
        before: seconds of the earlier starts, as recorded in their checkpoints.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not minutes >= 0:
            raise ValueError(f"max_minutes must not be negative, got {minutes}")
        self.minutes = minutes
        self.before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Start counting; further calls do nothing."""
        if self._started is None:
            self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds of this start and the earlier ones."""
        return self.before + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def up(self) -> bool:
        """Return True on every process if the time is up on any process."""
        return self.minutes is not None and distributed.any_of(self.seconds >= 60 * self.minutes)

    @property
    def share(self) -> float:
        """Return the first process's elapsed share of the time limit, in [0, 1], on every process.

        Raises:
            ValueError: if the clock lacks a limit.
        """
        if not self.minutes:
            raise ValueError(f"max_minutes must be above 0 to compute a share of the time, got {self.minutes}")
        return float(distributed.from_first(min(1.0, self.seconds / (60 * self.minutes))))
