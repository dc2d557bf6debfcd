"""Stop a training at a given second and record its loss by time."""

import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import from_engine


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
