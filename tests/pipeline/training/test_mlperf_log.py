"""The MLPerf log of real runs of the bundle, read by MLPerf's own checker."""

import json
import re
import subprocess
import sys

import pytest
import torch.distributed as dist
from conftest import ROOT
from monai.bundle import ConfigWorkflow

from kits_unet3d.pipeline.training import MLPerfLog

#: What the checker finds wrong with a perfect run on stand-in data: it wants KiTS19's numbers, nothing else.
ALLOWED = {
    "train_samples": "CHECK for 'train_samples' failed: v['value'] == 168",
    "eval_samples": "CHECK for 'eval_samples' failed: v['value'] == 42",
    "eval_accuracy": "Failed checks for eval_accuracy : v['value'] >= 0.908",
}


def overlay(directory, tiny_config, **knobs):
    """The configuration files of a run, the last with ``knobs``."""
    path = directory / "knobs.json"
    knobs = {"output_dir": str(directory), "ckpt_dir": str(directory), "device_name": "cpu", **knobs}
    path.write_text(json.dumps({key: str(value) if key == "dataset_dir" else value for key, value in knobs.items()}))
    return [str(ROOT / "bundle" / "configs" / "train.json"), str(tiny_config), str(path)]


def train(directory, tiny_config, **knobs):
    workflow = ConfigWorkflow(
        config_file=overlay(directory, tiny_config, **knobs), logging_file=False, workflow_type="train"
    )
    workflow.initialize()
    workflow.run()
    return directory / "mlperf.log"


def events(log):
    """(key, value, metadata) of each line."""
    lines = [json.loads(line.removeprefix(":::MLLOG ")) for line in log.read_text().splitlines()]
    return [(line["key"], line["value"], line["metadata"]) for line in lines]


def check(log, directory):
    """Exit code of the checker, and its complaints, each as its first line and the rule that failed."""
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "4.0.0"]
    done = subprocess.run(
        [*command, "--log_output", str(directory / "checker.log"), str(log)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    found = re.search(r"^WARNING - (.*?)^ERROR - FAILED", done.stderr, re.DOTALL | re.MULTILINE)
    complaints = set()
    for part in found.group(1).split("-" * 30) if found else []:
        rule = re.search(r"^failed test: *(.*?) *$", part, re.MULTILINE)
        first = " ".join(part.strip().splitlines()[0].split())
        complaints.add(re.sub(r"in line \d+:$", "", first).strip() + (f": {rule.group(1)}" if rule else ""))
    return done.returncode, complaints


@pytest.fixture(scope="module")
def successful(tmp_path_factory, preprocessed_phantoms, tiny_config):
    """A run that reaches its target at its first evaluation, after its second epoch.

    At so low a rate the network still answers as it was made, a little of every class, which scores above 0.001.
    """
    return train(
        tmp_path_factory.mktemp("successful"), tiny_config,
        dataset_dir=preprocessed_phantoms, epochs=5, first_evaluation=2, quality_threshold=0.0001, learning_rate=0.001,
    )  # fmt: skip


def test_the_checker_complains_of_nothing_but_the_stand_in_datas_numbers(successful, tmp_path):
    assert check(successful, tmp_path) == (1, set(ALLOWED.values()))


def test_the_checker_passes_the_log_with_kits19s_numbers_in_their_place(successful, tmp_path):
    text = successful.read_text()
    for key, number in (("train_samples", 168), ("eval_samples", 42), ("eval_accuracy", 0.908)):
        text, places = re.subn(rf'("key": "{key}", "value": )[0-9.e-]+', rf"\g<1>{number}", text)
        assert places == 1
    log = tmp_path / "mlperf.log"
    log.write_text(text)
    assert check(log, tmp_path) == (0, set())


def test_events_come_in_the_references_order(successful):
    order = [key for key, _, _ in events(successful)]
    ends = [order.index("init_stop"), order.index("run_start")]
    assert order[:2] == ["cache_clear", "init_start"] and ends[1] == ends[0] + 1
    for key in ("seed", "submission_org", "opt_name", "opt_learning_rate_warmup_epochs", "weights_initialization"):
        assert order.index(key) < ends[0], key
    epoch = ["block_start", "epoch_start", "epoch_stop", "tracked_stats"]
    assert order[ends[1] + 1 :] == [
        "train_samples", "eval_samples", "samples_per_epoch", "global_batch_size", "gradient_accumulation_steps",
        *epoch, "block_stop", *epoch, "eval_start", "eval_accuracy", "eval_stop", "block_stop", "run_stop",
    ]  # fmt: skip


def test_a_reached_target_is_a_success_with_the_runs_own_numbers(successful):
    log = events(successful)
    assert log[-1][0] == "run_stop" and log[-1][2]["status"] == "success"
    values = {key: value for key, value, _ in log}
    assert (values["seed"], values["train_samples"], values["eval_samples"]) == (1, 4, 1)
    assert (values["global_batch_size"], values["samples_per_epoch"]) == (2, 4)
    assert (values["opt_name"], values["opt_momentum"], values["opt_weight_decay"]) == ("sgd", 0.9, 0)
    assert values["eval_accuracy"] >= 0.0001 and values["tracked_stats"]["throughput"] > 0
    assert values["cache_clear"] is False and values["submission_status"] == "research"
    stops = [metadata for key, _, metadata in log if key == "epoch_stop"]
    assert [stop["epoch_num"] for stop in stops] == [1, 2] and stops[0]["current_lr"] == 0.001
    assert [m["epoch_num"] for key, _, m in log if key.startswith("eval_") and "epoch_num" in m] == [2, 2, 2]
    assert [value for key, value, _ in log if key == "eval_start"] == [2]  # as the reference has it


def test_every_tensor_has_its_event_of_initialisation(successful):
    from kits_unet3d.networks import UNet3D

    tensors = [metadata["tensor"] for key, _, metadata in events(successful) if key == "weights_initialization"]
    assert tensors == [name for name, _ in UNet3D(channels=(4, 8, 8)).named_parameters()]


def test_a_run_that_misses_its_target_is_aborted(tmp_path, preprocessed_phantoms, tiny_config):
    log = events(train(tmp_path, tiny_config, dataset_dir=preprocessed_phantoms, epochs=1, quality_threshold=1.1))
    assert [metadata["status"] for key, _, metadata in log if key == "run_stop"] == ["aborted"]


def test_a_run_that_ends_in_an_error_is_aborted(tmp_path, preprocessed_phantoms, tiny_config):
    configs = overlay(
        tmp_path, tiny_config, dataset_dir=preprocessed_phantoms, warmup_epochs=0, learning_rate=1e38, epochs=9
    )
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(configs)],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode != 0 and "lower the learning rate" in done.stderr
    log = events(tmp_path / "mlperf.log")
    assert [metadata["status"] for key, _, metadata in log if key == "run_stop"] == ["aborted"]
    assert log[-1][0] == "run_stop"


def test_each_start_has_a_log_of_its_own_and_earlier_ones_are_kept(tmp_path):
    for seed in (1, 2, 3):
        MLPerfLog(tmp_path / "mlperf.log", {"seed": seed}).open()
    seeds = {
        path.name: [value for key, value, _ in events(path) if key == "seed"] for path in sorted(tmp_path.iterdir())
    }
    assert seeds == {"mlperf.log": [3], "mlperf.log.1": [2], "mlperf.log.2": [1]}


def test_a_start_that_is_refused_leaves_the_log_of_a_finished_run_alone(successful, preprocessed_phantoms, tiny_config):
    """A checkpoint lies there, and nobody asked to go on from it."""
    directory = successful.parent
    before = {path.name: path.read_bytes() for path in directory.glob("mlperf.log*")}
    with pytest.raises(SystemExit):
        train(directory, tiny_config, dataset_dir=preprocessed_phantoms, epochs=5)
    assert {path.name: path.read_bytes() for path in directory.glob("mlperf.log*")} == before


def test_only_the_first_process_writes(tmp_path):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for rank in (0, 1):
        dist.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
        try:
            MLPerfLog(tmp_path / f"{rank}.log", {"seed": 1}).open()
        finally:
            dist.destroy_process_group()
    assert [path.name for path in tmp_path.iterdir()] == ["0.log"]
