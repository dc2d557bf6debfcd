"""Runs that are killed, interrupted and continued: real processes, real signals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from kits_unet3d.pipeline.training.checkpoint import last_checkpoints

#: Many processes, each of which takes seconds to start.
pytestmark = pytest.mark.slow

CONFIGS = ["bundle/configs/train.json"]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory, tiny_config):
    """A run long enough to be killed: 8 epochs of 2 steps, a checkpoint after each step, two evaluations."""
    path = tmp_path_factory.mktemp("resume") / "resume.json"
    settings = json.loads(tiny_config.read_text())
    path.write_text(
        json.dumps({**settings, "epochs": 8, "evaluate_every": 4, "first_evaluation": 4, "save_minutes": 0})
    )
    return path


@pytest.fixture(scope="module")
def command(overlay, preprocessed_phantoms):
    def make(directory, *more):
        config = "[" + ",".join(f"'{c}'" for c in [*CONFIGS, overlay]) + "]"
        return [
            sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", config, "--device_name", "cpu",
            "--dataset_dir", str(preprocessed_phantoms), "--ckpt_dir", str(directory),
            "--output_dir", str(directory / "eval"),
            *more,
        ]  # fmt: skip

    return make


def start(command, log):
    return subprocess.Popen(command, cwd=ROOT, stdout=log.open("a"), stderr=subprocess.STDOUT, start_new_session=True)


def wait_for(condition, process, log, seconds=120):
    """Waits until ``condition()`` holds; False if the process ended before."""
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.001)
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory, command):
    """The run that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    log = directory / "log"
    process = start(command(directory), log)
    assert process.wait(300) == 0, log.read_text()[-3000:]
    return torch.load(directory / "model_final.pt", weights_only=True)


def same(a, b):
    """Whether two contents of checkpoints agree bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_a_run_killed_five_times_ends_as_one_that_never_was(tmp_path, command, whole):
    log, draw = tmp_path / "log", random.Random(5)
    kills = 0
    while kills < 4:
        newest = len(list(tmp_path.glob("last_*"))) and last_checkpoints(tmp_path)[-1].name
        process = start(command(tmp_path, "--resume", "True"), log)

        def moved_on(newest=newest):
            there = last_checkpoints(tmp_path)
            return bool(there) and there[-1].name != newest

        assert wait_for(moved_on, process, log), "the run ended before it could be killed"
        time.sleep(draw.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
        kills += 1
    # The fifth: inside the writing of a checkpoint, its temporary file being there when the process dies.
    process = start(command(tmp_path, "--resume", "True"), log)
    while True:
        for old in tmp_path.glob(".part-*"):
            old.unlink()
        assert wait_for(lambda: any(tmp_path.glob(".part-*")), process, log), "no checkpoint was being written"
        process.send_signal(signal.SIGSTOP)
        if any(tmp_path.glob(".part-*")):
            break
        process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and any(tmp_path.glob(".part-*"))
    process = start(command(tmp_path, "--resume", "True", "--workers", "2"), log)
    assert process.wait(300) == 0, log.read_text()[-3000:]
    final = torch.load(tmp_path / "model_final.pt", weights_only=True)
    assert final["iteration"] == 16
    for name in ("model", "optimizer", "random", "best", "evaluated", "iteration"):
        assert same(final[name], whole[name]), name
    assert len(last_checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_its_state_saved(tmp_path, command, whole, number):
    log = tmp_path / "log"
    workers = "2" if number == signal.SIGINT else "0"
    process = start(
        command(tmp_path, "--save_every", "100", "--epochs", "1000", "--save_minutes", "60", "--workers", workers),
        log,
    )
    assert wait_for(lambda: "Epoch[2] Complete" in log.read_text(), process, log)
    os.killpg(process.pid, number)  # as a terminal does: to the data workers too
    assert process.wait(60) == 130, log.read_text()[-3000:]
    (saved,) = last_checkpoints(tmp_path)
    iteration = torch.load(saved, weights_only=True)["iteration"]
    assert iteration >= 4 and "continue with `--resume True`" in log.read_text()
    if number == signal.SIGTERM:
        assert iteration < 16, "it ended too late for the rest of the test"
        process = start(command(tmp_path, "--resume", "True"), log)
        assert process.wait(300) == 0, log.read_text()[-3000:]
        assert same(torch.load(tmp_path / "model_final.pt", weights_only=True)["model"], whole["model"])


def run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_checkpoints_are_never_mixed(tmp_path, command, preprocessed_phantoms):
    assert run(command(tmp_path, "--epochs", "1", "--first_evaluation", "1")).returncode == 0
    *_, before, last = last_checkpoints(tmp_path)
    again = run(command(tmp_path))
    assert again.returncode == 3 and "contains checkpoints of an earlier run" in again.stderr
    other = run(command(tmp_path, "--resume", "True", "--seed", "2", "--learning_rate", "0.04"))
    assert other.returncode == 3 and "differs in learning_rate, seed;" in other.stderr, other.stderr[-2000:]
    fewer = run(command(tmp_path, "--resume", "True", "--training_cases", "2", "--loss::lambda_dice", "1.0"))
    assert fewer.returncode == 3 and "differs in epoch_length, loss::lambda_dice, training_cases;" in fewer.stderr
    index = json.loads((preprocessed_phantoms / "index.json").read_text())
    index["cases"]["case_00001"]["source_sha256"]["image"] = "0" * 64
    shutil.copytree(preprocessed_phantoms, tmp_path / "others")
    (tmp_path / "others" / "index.json").write_text(json.dumps(index))
    others = run(command(tmp_path, "--resume", "True", "--dataset_dir", os.fspath(tmp_path / "others")))
    assert others.returncode == 3 and "differs in sources;" in others.stderr, others.stderr[-2000:]
    older = run(command(tmp_path, "--resume", os.fspath(before)))
    assert older.returncode == 3 and "resume from the newest" in older.stderr
    elsewhere = tmp_path / "elsewhere"
    weights = torch.load(last, weights_only=True)["model"]
    torch.save({"model": weights}, tmp_path / "weights.pt")
    without = run(command(elsewhere, "--resume", os.fspath(tmp_path / "weights.pt")))
    assert without.returncode == 3 and "not the state of a run" in without.stderr


def test_an_epoch_too_short_for_one_step_is_refused(tmp_path, command):
    done = run(command(tmp_path, "--accumulation_steps", "3"))
    assert done.returncode == 2 and "each of which needs 6" in done.stderr, done.stderr[-2000:]


def test_a_continued_run_logs_the_seed_that_it_uses(tmp_path, command):
    seeds = []
    for epochs in ("1", "2"):
        done = run(command(tmp_path, "--seed", "-1", "--resume", "True", "--epochs", epochs))
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (tmp_path / "eval" / "mlperf.log").read_text().splitlines()
        events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
        seeds += [event["value"] for event in events if event["key"] == "seed"]
    assert len(seeds) == 2 and seeds[0] == seeds[1] >= 0
