"""Measure the throughput of a training."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..device import Accelerator
from ..runtime import distributed
from ..runtime.errors import UsageError
from ..runtime.files import write_json
from ..runtime.output import device_line

logger = logging.getLogger("kits_unet3d.training")

PERCENTILES = (50, 90, 95, 99)


def summarise(step_seconds: Sequence[float], samples_per_step: int) -> dict[str, Any]:
    """Summarise the throughput of consecutive steps.

    Args:
        step_seconds: duration of each step in seconds; at least one step.
        samples_per_step: samples of all processes together.

    Returns ``steps``, ``samples_per_step``, ``samples_per_second`` over all steps, and ``step_ms``: percentiles
    (``"p50"``, …) of the step time in milliseconds, interpolated linearly.
    """
    milliseconds = 1000 * np.asarray(step_seconds, dtype=np.float64)
    values = np.percentile(milliseconds, PERCENTILES)
    return {
        "steps": len(milliseconds),
        "samples_per_step": samples_per_step,
        "samples_per_second": float(1000 * samples_per_step / milliseconds.mean()),
        "step_ms": {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)},
    }


class Throughput:
    """Measure the steps of a training after a warm-up, and log the :func:`summarise` result at the end.

    A step lasts from the end of the previous step to its own end. The device must have finished all work, so waiting
    for data counts too.

    Args:
        accelerator: synchronised after each step, and described in the report.
        samples_per_step: samples of all processes together.
        warmup_steps: number of steps at the start that are not measured.
        file: path of the JSON report; None for the log alone.
    """

    def __init__(
        self, accelerator: Accelerator, samples_per_step: int, warmup_steps: int = 0, file: str | Path | None = None
    ) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.warmup_steps, self.file = warmup_steps, file
        self.ends: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step_ended)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self) -> None:
        logger.info(device_line(self.accelerator.describe()))
        self.ends = []
        self._step_ended()

    def _step_ended(self) -> None:
        self.accelerator.synchronize()
        self.ends.append(time.perf_counter())

    def report(self) -> dict[str, Any]:
        """Return the measurements so far, with the device and its peak memory use in bytes.

        Raises:
            UsageError: if no step followed the warm-up.
        """
        seconds = np.diff(self.ends)[self.warmup_steps :].tolist()
        if not seconds:
            raise UsageError(
                f"nothing measured: of {max(len(self.ends) - 1, 0)} steps the first {self.warmup_steps} are warm-up; "
                "run more steps or lower warmup_steps"
            )
        return {
            **summarise(seconds, self.samples_per_step),
            "warmup_steps": self.warmup_steps,
            "processes": distributed.world_size(),
            "memory_bytes": self.accelerator.memory(),
            "device": self.accelerator.describe(),
        }

    def _completed(self) -> None:
        report = self.report()
        if distributed.rank() != 0:
            return
        percentiles = ", ".join(f"{name} {value:.1f}" for name, value in report["step_ms"].items())
        logger.info(
            "%.3f samples/s over %d steps; ms per step: %s", report["samples_per_second"], report["steps"], percentiles
        )
        if self.file is not None:
            write_json(self.file, report)
