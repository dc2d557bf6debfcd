import copy
import json
import math
from functools import partial

import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.training import (
    Clock,
    LearningRate,
    NotFiniteError,
    RunState,
    Schedule,
    StopAfter,
    StopAtTarget,
    TrainStep,
    WeightAverage,
    epochs_of,
    recomputed,
)
from kits_unet3d.transforms import PreprocessingParameters


@pytest.mark.parametrize(
    ("samples", "first", "every", "last"), [(168, 1000, 20, 10000), (160, 1050, 21, 10500), (128, 1313, 27, 13125)]
)
def test_evaluation_epochs_follow_the_samples_of_an_epoch(samples, first, every, last):
    assert (epochs_of(1000, samples), epochs_of(20, samples), epochs_of(10000, samples)) == (first, every, last)


def test_the_rate_warms_up_linearly_from_1e_4():
    schedule = Schedule(10000, 1000, 20, learning_rate=0.8, warmup_epochs=200)
    assert schedule.rate(1) == pytest.approx(1e-4 + (0.8 - 1e-4) / 200)
    assert schedule.rate(100) == pytest.approx(1e-4 + (0.8 - 1e-4) / 2)
    assert schedule.rate(200) == schedule.rate(201) == schedule.rate(10000) == 0.8


def test_the_learning_rate_is_halved_at_decay_epochs_but_not_in_warm_up():
    schedule = Schedule(4000, 1400, 10, 3.2, 200, decay_epochs=(100, 1500, 3000), decay_factor=0.5)
    assert schedule.rate(150) == pytest.approx(1e-4 + (3.2 - 1e-4) * 0.75)
    assert [schedule.rate(e) for e in (1500, 1501, 3000, 3001)] == [1.6, 0.8, 0.8, 0.4]


def test_evaluations_happen_when_due_and_after_the_last_epoch():
    schedule = Schedule(epochs=10, first_evaluation=4, evaluate_every=3)
    assert [e for e in range(1, 11) if schedule.evaluates(e)] == [4, 7, 10]
    assert Schedule(9, 4, 3).evaluates(9)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"evaluate_every": 0}, {"learning_rate": 0}, {"warmup_epochs": -1}])
def test_an_impossible_schedule_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Schedule(**{"epochs": 1, "first_evaluation": 1, "evaluate_every": 1, **wrong})


def trainer(epochs=2, handlers=(), loss=None, batches=3, rate=0.1, accumulation=1):
    torch.manual_seed(0)
    network = UNet3D(channels=(2, 4))
    data = [{"image": torch.rand(1, 1, 8, 8, 8), "label": torch.randint(0, 3, (1, 1, 8, 8, 8))} for _ in range(batches)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), rate),
        loss_function=loss or (lambda p, t: torch.nn.functional.cross_entropy(p, t[:, 0])),
        inferer=SimpleInferer(),
        iteration_update=TrainStep(resolve("cpu"), accumulation),
        train_handlers=list(handlers),
        decollate=False,
    )


def test_a_step_does_what_plain_pytorch_does():
    run = trainer(epochs=1, batches=1)
    twin = UNet3D(channels=(2, 4))
    twin.load_state_dict(run.network.state_dict())
    batch = next(iter(run.data_loader))
    loss = torch.nn.functional.cross_entropy(twin(batch["image"]), batch["label"][:, 0])
    loss.backward()
    run.run()
    assert run.state.output["loss"].item() == loss.item()
    for (name, p), q in zip(twin.named_parameters(), run.network.parameters(), strict=True):
        torch.testing.assert_close(p - 0.1 * p.grad, q, msg=name)


def test_accumulated_batches_make_one_step_and_leftovers_are_dropped():
    run = trainer(epochs=2, batches=5, accumulation=2)
    twin = UNet3D(channels=(2, 4))
    twin.load_state_dict(run.network.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    data = list(run.data_loader)
    for first, second in [(0, 1), (2, 3)] * 2:
        loss = [
            torch.nn.functional.cross_entropy(twin(data[i]["image"]), data[i]["label"][:, 0]) for i in (first, second)
        ]
        optimizer.zero_grad()
        (sum(loss) / 2).backward()
        optimizer.step()
    run.run()
    for (name, p), q in zip(twin.named_parameters(), run.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name, atol=1e-6, rtol=1e-5)


def test_weight_averaging_starts_at_the_first_step_and_resumes():
    network = torch.nn.Linear(1, 1, bias=False)
    average, resumed = WeightAverage(network, 0.9), WeightAverage(torch.nn.Linear(1, 1, bias=False), 0.9)

    def step(weight):
        with torch.no_grad():
            network.weight.fill_(weight)
        average.update()

    for weight in (1.0, 2.0):
        step(weight)
    assert average.network.weight.item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    resumed.restore(average.capture())
    assert resumed.trained.weight.item() == 2
    step(4.0)
    with torch.no_grad():
        resumed.trained.weight.fill_(4.0)
    resumed.update()
    assert torch.equal(resumed.network.weight, average.network.weight)
    assert average.network.weight.item() == pytest.approx(0.9 * 1.1 + 0.1 * 4)


def test_without_an_average_the_trained_network_itself_is_used():
    network = torch.nn.Linear(1, 1)
    average = WeightAverage(network)
    average.update()
    assert average.network is network and set(average.capture()) == {"model"}
    with pytest.raises(ValueError, match="average_decay"):
        WeightAverage(network, 1.0)


def test_lamb_and_adam_overlays_train():
    for name in ("adam", "lamb"):
        network = UNet3D(channels=(2, 4))
        parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / f"{name}.json").read_text()))
        parser["network"], parser["learning_rate"] = network, 0.01
        optimizer = parser.get_parsed_content("optimizer")
        cpu = resolve("cpu")
        factory = partial(UNet3D, channels=(2, 4))
        state = RunState(
            WeightAverage(network), optimizer, TrainStep(cpu), None, factory, PreprocessingParameters(), cpu, {}
        )
        engine = Engine(lambda engine, batch: None)
        content = {"configuration": state.configuration(engine)}
        before = [p.detach().clone() for p in network.parameters()]
        network(torch.rand(1, 1, 8, 8, 8)).square().mean().backward()
        optimizer.step()
        moved = [float((p - q.detach()).abs().max()) for p, q in zip(before, network.parameters(), strict=True)]
        assert max(moved) > 0 and all(math.isfinite(m) for m in moved), name
        assert state.differences(content, engine) == [], f"a run with {name} could not be continued"


def test_the_rate_of_each_epoch_reaches_the_optimiser():
    run = trainer(epochs=4)
    schedule = Schedule(4, 1, 1, learning_rate=0.4, warmup_epochs=2)
    LearningRate(run.optimizer, schedule).attach(run)
    seen = []
    run.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(run.optimizer.param_groups[0]["lr"]))
    run.run()
    assert seen == [schedule.rate(epoch) for epoch in (1, 2, 3, 4)]


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_weights():
    run = trainer(loss=lambda p, t: p.sum() * math.nan)
    before = [p.clone() for p in run.network.parameters()]
    with pytest.raises(NotFiniteError, match="epoch 1, iteration 1"):
        run.run()
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))


def test_a_gradient_that_is_no_number_stops_the_run_and_leaves_the_weights():
    run = trainer()
    run.network.output.conv.bias.register_hook(lambda gradient: gradient * math.nan)
    before = [p.clone() for p in run.network.parameters()]
    with pytest.raises(NotFiniteError, match="gradient is nan in epoch 1"):
        run.run()
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))


@pytest.mark.parametrize(("score", "ends"), [(0.0, True), (9e-7, True), (1e-5, False), (0.89, False), (0.9, True)])
def test_a_score_at_the_target_or_below_1e_6_ends_the_run(score, ends):
    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(mean_dice=score))
    run = trainer(epochs=3)
    run.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0], max_epochs=1))
    StopAtTarget(evaluator, "mean_dice", 0.9).attach(run)
    run.run()
    assert run.state.epoch == (1 if ends else 3)


def test_the_run_stops_after_the_step_in_which_its_time_is_up():
    evaluated = []
    evaluator = Engine(lambda engine, batch: None)
    evaluator.run = evaluated.append  # type: ignore[method-assign]
    run = trainer(epochs=100, handlers=[StopAfter(Clock(0.0), evaluator)])
    run.run()
    assert (run.state.epoch, run.state.iteration) == (1, 1) and run.state.epoch_length > 1
    assert evaluated == [1]
    forever = trainer(epochs=3, handlers=[StopAfter(Clock())])
    forever.run()
    assert forever.state.epoch == 3


def test_activations_computed_again_give_the_same_gradients_and_names():
    torch.manual_seed(0)
    plain = UNet3D(channels=(2, 4))
    again = recomputed(copy.deepcopy(plain))
    image, kept = torch.rand(1, 1, 8, 8, 8), []
    for network in (plain, again):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            loss = network(image).square().sum()
        loss.backward()
        kept.append(sum(held))
    assert list(again.state_dict()) == list(plain.state_dict()) and kept[1] < kept[0] / 2
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
