"""The end of a compared training: to the step, whatever the epochs are."""

import sys
import time

import numpy as np
from conftest import ROOT
from ignite.engine import Engine


def deadline(*arguments):
    """Of scripts/compare, which is no package."""
    sys.path.insert(0, str(ROOT / "scripts" / "compare"))
    try:
        from deadline import Deadline
    finally:
        sys.path.pop(0)
    return Deadline(*arguments)


def slow_step(_: Engine, batch: float) -> list[dict[str, float]]:
    time.sleep(0.022)  # at least 0.02 by a file of milliseconds
    return [{"loss": batch}]


def test_the_first_step_starts_the_clock_and_the_deadline_step_is_last(tmp_path):
    engine = Engine(slow_step)
    deadline(0.1 / 60, str(tmp_path / "curves" / "loss.csv")).attach(engine)
    engine.run([0.5, 0.25], max_epochs=1000)
    seconds, loss = np.loadtxt(tmp_path / "curves" / "loss.csv", delimiter=",", skiprows=1, ndmin=2).T
    assert seconds[0] >= 0.02 and (np.diff(seconds) >= 0.02).all()
    assert seconds[-1] >= 0.1 and (seconds[:-1] < 0.1).all()
    assert engine.state.iteration == len(seconds) < 6 and list(loss[:3]) == [0.5, 0.25, 0.5][: len(loss)]


def test_without_minutes_a_training_ends_by_itself(tmp_path):
    engine = Engine(slow_step)
    deadline(None, str(tmp_path / "loss.csv")).attach(engine)
    engine.run([0.5], max_epochs=2)
    assert engine.state.iteration == 2
