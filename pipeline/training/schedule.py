"""When to evaluate, at what rate to learn, when to stop: by epoch, counted from 1."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.datasets import SIZES
from ..runtime import distributed

#: Cases of the training split, in which the reference counts its evaluation epochs.
TRAINING_CASES = SIZES["training"]


def epochs_of(passes: int, samples_per_epoch: int) -> int:
    """Epochs in which ``passes`` passes over the 168 training cases are seen, rounded up.

    The reference starts evaluating after 1000 passes, evaluates every 20 and gives up after 10000.
    """
    if samples_per_epoch < 1:
        raise ValueError(f"samples_per_epoch must be positive, got {samples_per_epoch}")
    return math.ceil(passes * TRAINING_CASES / samples_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """Learning rate and evaluation epochs.

    Attributes:
        epochs: the last one.
        first_evaluation: epoch of the first evaluation.
        evaluate_every: epochs between evaluations from then on.
        learning_rate: after warm-up.
        warmup_epochs: in which the rate rises linearly from ``initial_rate``; 0 for none.
        initial_rate: where warm-up starts.
        decay_epochs: after each of these the rate is multiplied by ``decay_factor``.
        decay_factor: see there.
        poly_power: after warm-up the rate falls as (1 − share)^power, where the share runs from 0 in the first epoch
            to nearly 1 in the last; nnU-Net's is 0.9. None for the reference's steps.
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
                "poly_power must be positive, and takes the place of decay_epochs, "
                f"got {self.poly_power} and {list(self.decay_epochs)}"
            )

    def rate(self, epoch: int, share: float | None = None) -> float:
        """Learning rate in ``epoch``.

        Warm-up comes first and decay after it: a decay epoch within warm-up takes effect when it ends.

        Args:
            epoch: from 1.
            share: of the run that has passed, in [0, 1], where a polynomial is to fall by that; by epochs, and from
                the end of warm-up, if not given.
        """
        if epoch <= self.warmup_epochs:
            return self.initial_rate + (self.learning_rate - self.initial_rate) * epoch / self.warmup_epochs
        if self.poly_power is not None:
            if share is None:
                share = (epoch - 1 - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
            return self.learning_rate * (1 - min(share, 1.0)) ** self.poly_power
        return self.learning_rate * self.decay_factor ** sum(epoch > start for start in self.decay_epochs)

    def evaluates(self, epoch: int) -> bool:
        """Whether an evaluation follows ``epoch``. The last epoch always ends with one."""
        past = epoch - self.first_evaluation
        return epoch == self.epochs or (past >= 0 and past % self.evaluate_every == 0)


class Clock:
    """Counts a run's time over all of its starts; what passed between them is not counted.

    Args:
        minutes: that the run is given in all; None for no limit.

    Attributes:
        before: seconds of the starts before this one, as far as their checkpoints tell.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not minutes >= 0:
            raise ValueError(f"max_minutes must not be negative, got {minutes}")
        self.minutes = minutes
        self.before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Begins to count; once it does, nothing happens."""
        if self._started is None:
            self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of this start and those before."""
        return self.before + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def up(self) -> bool:
        """Whether the time is up on any process; the same answer on every one."""
        return self.minutes is not None and distributed.any_of(self.seconds >= 60 * self.minutes)

    @property
    def share(self) -> float:
        """Of the time given, how much has passed, in [0, 1]: the first process's answer, on every one.

        Raises:
            ValueError: if there is no limit.
        """
        if not self.minutes:
            raise ValueError(f"a share of the time needs max_minutes above 0, got {self.minutes}")
        return float(distributed.from_first(min(1.0, self.seconds / (60 * self.minutes))))
