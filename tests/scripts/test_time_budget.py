"""The end and the warm-up of a compared training: by time, whatever the epochs are."""

import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine


@pytest.fixture
def time_budget(monkeypatch):
    """The module of scripts/compare, which is no package."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "compare")
    import time_budget

    return time_budget


def slow_step(_: Engine, batch: float) -> list[dict[str, float]]:
    time.sleep(0.022)  # at least 0.02 by a file of milliseconds
    return [{"loss": batch}]


def test_the_first_step_starts_the_clock_and_the_deadline_step_is_last(time_budget, tmp_path):
    engine = Engine(slow_step)
    time_budget.Deadline(0.1 / 60, str(tmp_path / "curves" / "loss.csv")).attach(engine)
    engine.run([0.5, 0.25], max_epochs=1000)
    seconds, loss = np.loadtxt(tmp_path / "curves" / "loss.csv", delimiter=",", skiprows=1, ndmin=2).T
    assert seconds[0] >= 0.02 and (np.diff(seconds) >= 0.02).all()
    assert seconds[-1] >= 0.1 and (seconds[:-1] < 0.1).all()
    assert engine.state.iteration == len(seconds) < 6 and list(loss[:3]) == [0.5, 0.25, 0.5][: len(loss)]


def test_without_minutes_a_training_ends_by_itself(time_budget, tmp_path):
    engine = Engine(slow_step)
    time_budget.Deadline(None, str(tmp_path / "loss.csv")).attach(engine)
    engine.run([0.5], max_epochs=2)
    assert engine.state.iteration == 2


def test_warmup_is_the_references_share_of_the_time(time_budget, monkeypatch):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    now = iter([100.0, 100.0, 100 + 300 * time_budget.SHARE, 100 + 600 * time_budget.SHARE, 699.0])
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: next(now))
    rates, engine = [], Engine(lambda engine, batch: rates.append(optimizer.param_groups[0]["lr"]))
    time_budget.WarmUp(optimizer, minutes=10, learning_rate=0.8).attach(engine)
    engine.run(range(2), max_epochs=2)
    assert rates == pytest.approx([1e-4, (0.8 + 1e-4) / 2, 0.8, 0.8])
