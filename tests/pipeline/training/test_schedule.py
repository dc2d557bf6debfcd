"""The schedule as the configuration and the launch scripts set it, over all epochs."""

import json
import re

import pytest
import torch.distributed as dist
from conftest import ROOT
from monai.bundle import ConfigParser
from torch.testing._internal.distributed.fake_pg import FakeStore

from kits_unet3d.pipeline.data import SyntheticIndex

SAMPLES = {"default": 168, "train_4mlu": 168, "train_8mlu": 160}


def script_settings(name):
    """The overrides that a launch script gives, by key."""
    text = (ROOT / "scripts" / f"{name}.sh").read_text()
    found = re.findall(r'--(\w+) "?([\d.]+|\[[\d,]*\])"?(?=\s)', text)
    return {key: json.loads(value) for key, value in found}


def schedule(name):
    parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text()))
    settings = {} if name == "default" else script_settings(name)
    for key, value in {**settings, "samples_per_epoch": SAMPLES[name]}.items():
        parser[key] = value
    return parser.get_parsed_content("schedule"), parser


def by_hand(epoch, rate, decays):
    if epoch <= 200:
        return 1e-4 + (rate - 1e-4) * epoch / 200
    return rate * 0.5 ** sum(epoch > d for d in decays)


@pytest.mark.parametrize(
    ("name", "rate", "decays", "epochs", "first", "every", "target"),
    [
        ("default", 0.8, (), 10000, 1000, 20, 0.908),
        ("train_4mlu", 3.2, (), 4000, 1000, 20, 0.908),
        ("train_8mlu", 3.2, (1500, 3000), 4000, 1400, 10, 0.903),
    ],
)
def test_rate_and_evaluations_of_every_epoch(name, rate, decays, epochs, first, every, target):
    traced, parser = schedule(name)
    assert traced.epochs == epochs and parser.get_parsed_content("quality_threshold") == target
    assert parser.get_parsed_content("batch_size") == 2
    for epoch in range(1, epochs + 1):
        assert traced.rate(epoch) == pytest.approx(by_hand(epoch, rate, decays), rel=1e-12)
    assert [e for e in range(1, epochs + 1) if traced.evaluates(e)] == list(range(first, epochs + 1, every))


@pytest.mark.parametrize(
    ("processes", "batch", "samples", "first", "every", "epochs"),
    [
        (1, 2, 168, 1000, 20, 10000),
        (1, 5, 165, 1019, 21, 10182),
        (4, 8, 160, 1050, 21, 10500),
        (8, 16, 128, 1313, 27, 13125),
        (5, 4, 160, 1050, 21, 10500),  # 33 cases for each of five
    ],
)
def test_epochs_follow_from_processes_and_batch(processes, batch, samples, first, every, epochs):
    """168 cases: what fills no batch of all processes is left out; evaluations are counted in cases, rounded up."""
    parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text()))
    parser["index"], parser["roi_size"] = SyntheticIndex((8, 8, 8), cases=168, volumes=1), [8, 8, 8]
    parser["batch_size"], parser["workers"], parser["device_name"] = batch, 0, "cpu"
    dist.init_process_group("fake", rank=processes - 1, world_size=processes, store=FakeStore())
    try:
        keys = ("samples_per_epoch", "first_evaluation", "evaluate_every", "epochs")
        assert [parser.get_parsed_content(key) for key in keys] == [samples, first, every, epochs]
    finally:
        dist.destroy_process_group()


def test_checkpoint_and_mlperf_log_hold_the_schedule_of_the_run():
    parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text()))
    schedule = {"learning_rate": 0.3, "warmup_epochs": 7, "decay_epochs": [50], "decay_factor": 0.5}
    times = {"train#trainer#max_epochs": 80, "first_evaluation": 60, "evaluate_every": 10}
    parser.update({**schedule, **times, "settings#training_cases": 3, "device_name": "cpu"})
    settings, log = parser.get_parsed_content("settings"), parser.get_parsed_content("mlperf_log").settings
    assert {name: settings[name] for name in schedule} == schedule and settings["learning_rate_until"] is None
    names = ("opt_base_learning_rate", "opt_learning_rate_warmup_epochs", "opt_learning_rate_decay_boundary_epochs",
             "opt_learning_rate_decay_factor")  # fmt: skip
    assert [log[name] for name in names] == list(schedule.values())
    parser.update({"decay_epochs": [], "poly_power": 0.9})
    parser.parse(reset=True)
    assert parser.get_parsed_content("settings")["learning_rate_until"] == "epoch 80"
    parser.update({"learning_rate_by_time": True, "max_minutes": 5})
    parser.parse(reset=True)
    settings = parser.get_parsed_content("settings")
    assert (settings["learning_rate_until"], settings["budget_minutes"]) == ("end of max_minutes", 5)
