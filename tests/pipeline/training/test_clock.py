"""A rate that falls by a polynomial, over epochs and over time, and the time that a run keeps."""

import sys
import time
from contextlib import suppress
from functools import partial

import pytest
import torch
from ignite.engine import Engine, Events

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.data.sampling import CaseSampler, Seeds
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.training import (
    Checkpoints,
    Clock,
    LearningRate,
    Progress,
    Resume,
    RunState,
    Schedule,
    StopAfter,
    TrainStep,
    WeightAverage,
)
from kits_unet3d.transforms import PreprocessingParameters


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass when the test says so."""
    passed = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    return passed


def test_polynomial_decay_starts_after_warm_up_and_ends_near_zero():
    schedule = Schedule(12, 1, 1, learning_rate=0.5, warmup_epochs=2, poly_power=0.9)
    assert schedule.rate(2) == 0.5  # warm-up's end
    assert schedule.rate(3) == 0.5  # share 0 of 10
    assert schedule.rate(8) == pytest.approx(0.5 * 0.5**0.9)
    assert schedule.rate(12) == pytest.approx(0.5 * 0.1**0.9)
    assert [schedule.rate(e) for e in (3, 8)] == [schedule.rate(9, 0.0), schedule.rate(9, 0.5)]
    assert schedule.rate(9, 1.0) == schedule.rate(9, 1.5) == 0


@pytest.mark.parametrize("wrong", [{"poly_power": 0.0}, {"poly_power": 0.9, "decay_epochs": (3,)}])
def test_a_polynomial_and_steps_exclude_each_other(wrong):
    with pytest.raises(ValueError, match="poly_power must be positive, and decay_epochs empty beside it"):
        Schedule(10, 1, 1, **wrong)


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)


def test_by_time_the_rate_falls_at_each_iteration(now):
    own, clock = optimizer(), Clock(1)
    seen = []

    def step(engine, batch):
        seen.append(own.param_groups[0]["lr"])
        now[0] += 15

    run = Engine(step)
    LearningRate(own, Schedule(9, 9, 9, 0.4, 0, poly_power=1.0), clock).attach(run)
    StopAfter(clock).attach(run)
    run.run(range(2), max_epochs=9)
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1]) and run.state.epoch == 2


@pytest.mark.parametrize(("power", "minutes"), [(None, 10), (0.9, None), (0.9, 0)])
def test_a_rate_by_time_needs_a_polynomial_and_a_time(power, minutes):
    with pytest.raises(ValueError, match="learning_rate_by_time needs poly_power and max_minutes"):
        LearningRate(optimizer(), Schedule(9, 9, 9, poly_power=power), Clock(minutes))


def test_a_share_without_a_limit_is_an_error_and_a_limit_is_not_negative():
    with pytest.raises(ValueError, match="max_minutes must be above 0"):
        _ = Clock().share
    with pytest.raises(ValueError, match="must not be negative"):
        Clock(-1)
    assert not Clock().up


def test_a_run_that_goes_on_has_only_the_rest_of_its_time(now, tmp_path):
    cpu, factory = resolve("cpu"), partial(UNet3D, channels=[2, 4])

    def started(clock, epochs, *before):
        network = factory()
        state = RunState(
            WeightAverage(network), torch.optim.SGD(network.parameters(), 0.1), TrainStep(cpu),
            CaseSampler(range(1), Seeds(1)), factory, PreprocessingParameters(), cpu, {"batch_size": 1}, clock,
        )  # fmt: skip
        run = Engine(lambda engine, batch: now.__setitem__(0, now[0] + 60))
        evaluator = Engine(lambda engine, batch: None)
        handlers = [Resume(bool(before), tmp_path, state), Checkpoints(tmp_path, state, evaluator, "d", every=1)]
        for handler in (*handlers, StopAfter(clock)):
            handler.attach(run)
        run.run(range(1), max_epochs=epochs)
        return run

    started(Clock(5), 2)
    now[0] += 3600  # what passes between two starts does not count
    clock = Clock(5)
    assert started(clock, 100, "again").state.epoch == 5
    assert clock.seconds == 300 and clock.share == 1.0 and clock.up
    assert started(Clock(5), 100, "again").state.iteration == 5  # nothing is left of the time
    assert started(Clock(7), 100, "again").state.iteration == 7  # a larger budget continues the run


def test_an_interrupted_evaluation_is_repeated_once_after_the_time_limit(now, tmp_path):
    cpu, factory = resolve("cpu"), partial(UNet3D, channels=[2, 4])

    def started(minutes, resume, interrupted=False):
        """Return the iteration, and how often the run was evaluated to the end."""
        network, clock = factory(), Clock(minutes)
        state = RunState(
            WeightAverage(network), torch.optim.SGD(network.parameters(), 0.1), TrainStep(cpu),
            CaseSampler(range(3), Seeds(1)), factory, PreprocessingParameters(), cpu, {"batch_size": 1}, clock,
        )  # fmt: skip
        run, evaluator = (
            Engine(lambda engine, batch: now.__setitem__(0, now[0] + 60)),
            Engine(lambda engine, batch: None),
        )
        evaluate, scores = evaluator.run, []
        evaluator.run = lambda epoch: evaluate([0])
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.state.metrics.update(d=0.5))
        if interrupted:
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: sys.exit(130))
        saves = Checkpoints(tmp_path, state, evaluator, "d", every=99)
        for handler in (Resume(resume, tmp_path, state), saves, StopAfter(clock, evaluator, state)):
            handler.attach(run)
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: scores.append(state.best))
        with suppress(SystemExit):
            run.run(range(3), max_epochs=9)
        return run.state.iteration, scores

    assert started(4, False, interrupted=True) == (4, [])
    assert not (tmp_path / "model.pt").exists()
    assert started(4, True) == (4, [0.5])
    assert torch.load(tmp_path / "model.pt", weights_only=True)["iteration"] == 4
    assert started(4, True) == (4, [])  # its newest checkpoint knows the score
    assert torch.load(tmp_path / "model_final.pt", weights_only=True)["best"] == 0.5


class Keys:
    """A data set of three cases that gives back the key it is asked for."""

    def __len__(self):
        return 3

    def __getitem__(self, key):
        return key


def test_an_epoch_cut_by_the_time_limit_resumes_with_the_unseen_cases(now, tmp_path):
    cpu, factory, seen = resolve("cpu"), partial(UNet3D, channels=[2, 4]), []

    def started(minutes, resume):
        network, clock, sampler = factory(), Clock(minutes), CaseSampler(Keys(), Seeds(1))
        state = RunState(
            WeightAverage(network), torch.optim.SGD(network.parameters(), 0.1), TrainStep(cpu), sampler, factory,
            PreprocessingParameters(), cpu, {"batch_size": 1}, clock,
        )  # fmt: skip

        def step(engine, batch):
            seen.append(tuple(int(number) for number in batch))
            now[0] += 60

        run, evaluator = Engine(step), Engine(lambda engine, batch: None)
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.state.metrics.update(d=0.5))
        evaluate = evaluator.run
        evaluator.run = lambda epoch: evaluate([0])
        run.add_event_handler(Events.EPOCH_STARTED, lambda: sampler.set_epoch(run.state.epoch))
        saves = Checkpoints(tmp_path, state, evaluator, "d", every=99)
        for handler in (Resume(resume, tmp_path, state), saves, StopAfter(clock, evaluator)):
            handler.attach(run)
        run.run(torch.utils.data.DataLoader(Keys(), batch_size=None, sampler=sampler), max_epochs=2)
        return run.state.iteration

    assert started(4, False) == 4  # one case into the second epoch
    assert started(60, True) == 6
    orders, expected = CaseSampler(Keys(), Seeds(1)), []
    for epoch in (1, 2):
        orders.set_epoch(epoch)
        expected += list(orders)
    assert seen == expected


def test_the_bar_shows_the_time_of_a_limited_run_and_the_epochs_of_another(now, capsys):
    def step(engine, batch):
        now[0] += 30
        return [{"loss": 0.25}]

    for clock, expected in ((Clock(2), "2.0 of 2 min, loss=0.25, step=4"), (Clock(), "2/2")):
        run = Engine(step)
        StopAfter(clock).attach(run)
        Progress(clock).attach(run)
        run.run(range(2), max_epochs=2)
        printed = capsys.readouterr().err
        assert "100%|" in printed and expected in printed
