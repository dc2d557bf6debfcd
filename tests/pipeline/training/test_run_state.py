"""What a run saves, and what it goes on from: in one process, with a network of a few weights."""

import json
import logging
import resource
from functools import partial

import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.data.sampling import CaseSampler, Seeds
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.training import Checkpoints, Resume, RunState, TrainStep, WeightAverage
from kits_unet3d.pipeline.training.checkpoint import last_checkpoints
from kits_unet3d.transforms import PreprocessingParameters, augmentation, strong_augmentation, wide_augmentation


class Run:
    """A trainer of one step an epoch which changes the weights a little, with its state."""

    def __init__(self, seed=1, momentum=0.9, channels=(2, 4), overlap=0.5, length=1, **settings):
        cpu, factory, parameters = (
            resolve("cpu"),
            partial(UNet3D, channels=list(channels)),
            PreprocessingParameters(overlap=overlap),
        )
        network = factory()
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=momentum)
        self.seeds = Seeds(seed)
        settings = {"batch_size": 1, "loss": DiceCELoss(), "augmentation": augmentation(parameters), **settings}
        self.state = RunState(
            WeightAverage(network), optimizer, TrainStep(cpu), CaseSampler(range(length), self.seeds), factory,
            parameters, cpu, settings,
        )  # fmt: skip
        self.length = length
        self.trainer = Engine(lambda engine, batch: None)
        self.evaluator = Engine(lambda engine, batch: None)

    def start(self, epochs, *handlers):
        for handler in handlers:
            handler.attach(self.trainer)
        self.trainer.run(range(self.length), max_epochs=epochs)
        return self

    def saved(self, directory, epochs=3):
        return self.start(epochs, Checkpoints(directory, self.state, self.evaluator, "mean_dice", every=1))


def test_the_best_score_is_kept_and_a_lower_one_after_it_is_not(tmp_path):
    run = Run()
    scores = {1: 0.3, 2: 0.5, 3: 0.4}
    run.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(mean_dice=scores[e.n]))

    def evaluate(engine):
        run.evaluator.n = engine.state.epoch
        run.evaluator.run([0], max_epochs=1)

    keeps = Checkpoints(tmp_path, run.state, run.evaluator, "mean_dice", every=1, keep=2)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
    run.start(3, keeps)
    best, final = (torch.load(tmp_path / name, weights_only=True) for name in ("model.pt", "model_final.pt"))
    assert (best["epoch"], best["best"], final["epoch"], final["best"]) == (2, 0.5, 3, 0.5)
    assert [path.name for path in last_checkpoints(tmp_path)] == ["last_00000002.pt", "last_00000003.pt"]


def test_a_deleted_best_checkpoint_is_not_replaced_by_a_worse_one(tmp_path, caplog):
    def evaluated(epochs, *handlers):
        run = Run()
        scores = {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.6}

        def evaluate(engine):
            run.evaluator.run([0], max_epochs=1)

        run.evaluator.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(mean_dice=scores[run.trainer.state.epoch])
        )
        keeps = Checkpoints(tmp_path, run.state, run.evaluator, "mean_dice", every=1)
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
        run.start(epochs, Resume(True, tmp_path, run.state), keeps)

    evaluated(2)
    best = tmp_path / "model.pt"
    best.unlink()
    with caplog.at_level(logging.INFO):
        evaluated(2)
        evaluated(3)
    assert not best.exists() and "model.pt was deleted and is not written again" in caplog.text
    evaluated(4)
    assert torch.load(best, weights_only=True)["best"] == 0.6


def test_a_run_without_an_evaluation_leaves_a_model(tmp_path):
    Run().saved(tmp_path / "first")
    assert (tmp_path / "first" / "model.pt").is_file()
    run = Run()
    keeps = Checkpoints(tmp_path / "second", run.state, run.evaluator, "mean_dice")
    newest = last_checkpoints(tmp_path / "first")[-1]
    run.start(4, Resume(str(newest), tmp_path / "second", run.state), keeps)
    assert (tmp_path / "second" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({}, []),
        ({"momentum": 0.8}, ["optimizer::momentum"]),
        ({"channels": (2, 8)}, ["network::channels"]),
        ({"overlap": 0.25}, ["preprocessing_parameters::overlap"]),
        ({"length": 2}, ["epoch_length"]),
        ({"learning_rate": 2.0}, ["learning_rate"]),
        ({"loss": DiceCELoss(lambda_dice=0.5)}, ["loss::lambda_dice"]),
        ({"loss": DiceCELoss(batch=True)}, ["loss::dice::batch"]),
    ],
)
def test_what_differs_from_the_checkpoint_is_named_by_its_path(tmp_path, capsys, other, named):
    Run().saved(tmp_path)
    (*_, newest) = last_checkpoints(tmp_path)
    content = torch.load(newest, weights_only=True)
    run = Run(**other)
    run.trainer.state.epoch_length = run.length
    assert run.state.differences(content, run.trainer) == named
    if named:
        with pytest.raises(SystemExit):
            run.start(5, Resume(True, tmp_path, run.state))
        assert f"differs in {', '.join(named)};" in capsys.readouterr().err


def test_every_number_of_the_augmentation_counts(tmp_path):
    Run().saved(tmp_path)
    content = torch.load(last_checkpoints(tmp_path)[-1], weights_only=True)
    run = Run(augmentation=augmentation(PreprocessingParameters(), foreground_probability=0.5))
    run.trainer.state.epoch_length = 1
    (named,) = run.state.differences(content, run.trainer)
    assert named.startswith("augmentation::transforms::0::") and named.endswith("foreground_probability")


@pytest.mark.parametrize("chain", [augmentation, wide_augmentation, strong_augmentation])
def test_augmentation_settings_load_with_weights_only(tmp_path, chain):
    run = Run(augmentation=chain(PreprocessingParameters(roi_size=(8, 8, 8)), class_weights=[1.0, 2.0]))
    run.trainer.state.epoch_length = 1
    torch.save(run.state.settings, tmp_path / "settings.pt")
    assert torch.load(tmp_path / "settings.pt", weights_only=True) == run.state.settings


def test_what_was_drawn_meanwhile_is_no_difference(tmp_path):
    chain = augmentation(PreprocessingParameters(roi_size=(8, 8, 8)))
    run = Run(augmentation=chain)
    chain({"image": torch.rand(1, 9, 9, 9), "label": torch.ones(1, 9, 9, 9, dtype=torch.uint8)})
    run.saved(tmp_path)
    again = Run(augmentation=augmentation(PreprocessingParameters(roi_size=(8, 8, 8))))
    again.start(5, Resume(True, tmp_path, again.state))
    assert again.trainer.state.epoch == 5


def test_a_damaged_newest_checkpoint_is_told_of_and_the_one_before_it_used(tmp_path, caplog):
    Run().saved(tmp_path)
    *_, before, newest = last_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:1000])
    run = Run()
    started = []
    resume = Resume(True, tmp_path, run.state)
    resume.attach(run.trainer)
    run.trainer.add_event_handler(Events.STARTED, lambda e: started.append(e.state.iteration))
    with caplog.at_level(logging.INFO):
        run.start(4)
    assert started == [2] and run.trainer.state.epoch == 4
    assert f"{newest}: damaged" in caplog.text and f"resuming from {before}" in caplog.text


def test_damaged_checkpoints_are_refused_by_name_and_by_directory(tmp_path, capsys):
    Run().saved(tmp_path)
    *_, newest = last_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:1000])
    run = Run()
    with pytest.raises(SystemExit) as ended:
        run.start(5, Resume(str(newest), tmp_path, run.state))
    assert ended.value.code == 3 and f"{newest}: damaged" in capsys.readouterr().err
    for path in last_checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:1000])
    run = Run()
    with pytest.raises(SystemExit) as ended:
        run.start(5, Resume(True, tmp_path, run.state))
    assert ended.value.code == 3 and "damaged" in capsys.readouterr().err


def test_a_restart_does_not_overrule_that_the_directory_is_an_earlier_runs(tmp_path, capsys, monkeypatch):
    Run().saved(tmp_path)
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        run = Run()
        with pytest.raises(SystemExit) as ended:
            run.start(5, Resume(False, tmp_path, run.state))
        assert ended.value.code == 3 and "earlier run" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [True, "true", "named"])
def test_a_restart_goes_on_from_the_newest_where_that_was_wanted(tmp_path, monkeypatch, wanted):
    Run().saved(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run = Run()
    began = []
    Resume(str(tmp_path / "last_00000001.pt") if wanted == "named" else wanted, tmp_path, run.state).attach(run.trainer)
    run.trainer.add_event_handler(Events.STARTED, lambda engine: began.append(engine.state.iteration))
    run.start(5)
    assert began == [3]


def test_a_continued_run_takes_the_checkpoints_seed_over(tmp_path):
    first = Run(seed=-1).saved(tmp_path)
    again = Run(seed=-1)
    assert again.seeds.master != first.seeds.master
    again.start(4, Resume(True, tmp_path, again.state))
    assert again.seeds.master == first.seeds.master


def test_the_handlers_come_in_the_order_that_they_need():
    parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text()))
    names = [handler["_target_"].rsplit(".", 1)[-1] for handler in parser["train#handlers"]]
    order = ["Resume", "MLPerfRun", "Checkpoints", "StopAtTarget", "Evaluation", "StopAfter"]
    assert [name for name in names if name in order] == order
    assert names.index("Interruption") < names.index("Evaluation")


def test_a_full_disk_ends_a_run_with_one_line(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # as on a full disk, a write fails halfway
    try:
        with pytest.raises(SystemExit) as ended:
            Run().saved(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "cannot be written (File too large); free disk space" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
