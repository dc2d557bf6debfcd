"""The schedule as the configuration and the launch scripts set it, over all epochs."""

import json
import re

import pytest
from conftest import ROOT
from monai.bundle import ConfigParser

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
