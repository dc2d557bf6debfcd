"""How long a run has trained."""

from __future__ import annotations

import time

from .. import distributed


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
