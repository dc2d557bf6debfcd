"""Measure time and memory fairly."""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: The baseline of all comparisons.
BASELINE = "baseline"


@dataclass(frozen=True)
class Row:
    """Hold one line of the table.

    Attributes:
        what: measured quantity.
        how: the contender; :data:`BASELINE` for the baseline.
        value: median.
        unit: ``"s"``, ``"MB"``, …
        ratio: ratio to the baseline in the same run; None without a baseline.
        goal: largest allowed ratio, if any.
        at_least: smallest allowed value, if any.
        work: amount of work by name: voxels, windows, cases.
        values: all measured values.
    """

    what: str
    how: str
    value: float
    unit: str = "s"
    ratio: float | None = None
    goal: float | None = None
    at_least: float | None = None
    work: Mapping[str, float] = field(default_factory=dict)
    values: Sequence[float] = ()

    @property
    def missed(self) -> bool:
        """Return whether a goal was missed; a value that is not a number misses any goal."""
        over = self.goal is not None and self.ratio is not None and not self.ratio <= self.goal
        return over or (self.at_least is not None and not self.value >= self.at_least)


def alternating(contenders: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """Return the seconds of each contender, run ``repeats`` times in turn.

    A slow phase of the machine then slows all contenders.

    Args:
        contenders: by name.
        repeats: at least 1.
        warm: run each once before, uncounted.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1 if warm else 0, repeats):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def in_blocks(
    contenders: Mapping[str, Callable[[], Callable[[], Any]]], counted: int, length: int = 5, dropped: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of each contender's steps, run in blocks that alternate.

    Otherwise a contender that works ahead, such as a data loader, would do so in the others' time.

    Args:
        contenders: by name, functions that begin a block and return its step; the step is released after the block.
        counted: least number of counted steps of each contender.
        length, dropped: number of steps of a block, and of uncounted ones at its beginning.
    """
    if counted < 1 or not 0 <= dropped < length:
        raise ValueError(f"no step would be measured: {counted=}, {length=}, {dropped=}")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(math.ceil(counted / (length - dropped))):
        for name, begin in contenders.items():
            step = begin()
            for turn in range(length):
                began = time.perf_counter()
                step()
                if turn >= dropped:
                    seconds[name].append(time.perf_counter() - began)
            del step  # ends its workers before the next block
    return seconds


def rows(
    what: str,
    seconds: Mapping[str, Sequence[float]],
    goals: Mapping[str, float] | None = None,
    work: Mapping[str, float] | None = None,
) -> list[Row]:
    """Return a row for each contender, with its median compared with that of :data:`BASELINE`."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        Row(
            what,
            name,
            median,
            ratio=median / medians[BASELINE] if BASELINE in medians and name != BASELINE else None,
            goal=(goals or {}).get(name),
            work=work or {},
            values=list(seconds[name]),
        )
        for name, median in medians.items()
    ]


def linearity(work: Sequence[float], values: Sequence[float]) -> float:
    """Return R² of the straight line through (work, values); 1 if values are a linear function of the work."""
    x, y = np.asarray(work, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 3 or np.ptp(x) == 0:
        raise ValueError(f"a line fit needs at least 3 different amounts of work, got {list(work)}")
    if np.ptp(y) == 0:
        return 1.0
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def in_own_process(function: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Return seconds and peak memory in MB of a call in a new process; imports count for memory, not for time.

    Args:
        function: at the top level of a module, so that the new process finds it.
        arguments: plain values.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        seconds, memory = receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"{function.__name__} failed in its own process; its error is above") from error
    finally:
        process.join()
    return seconds, memory


@contextmanager
def aside(make: Callable[..., Callable[[], Any]], *arguments: Any, **options: Any) -> Iterator[Callable[[], None]]:
    """Run a contender in its own process while the context lasts, so that its changes affect no other.

    Args:
        make: returns the function to run; at the top level of a module.
        arguments, options: of ``make``, plain values.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, arguments, options), daemon=True)
    process.start()
    theirs.close()

    def run() -> None:
        try:
            ours.send(None)
            ours.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"{make.__name__} failed in its own process; its error is above") from error

    try:
        yield run
    finally:
        ours.close()
        process.join()


def _serve(turns: Any, make: Callable[..., Callable[[], Any]], arguments: Any, options: Any) -> None:
    run = make(*arguments, **options)
    while True:
        try:
            turns.recv()
        except EOFError:
            return
        run()
        turns.send(None)


def _measured(sender: Any, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    began = time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send((seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)))
