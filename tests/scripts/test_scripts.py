"""The launch scripts, run on the CPU as they would be on cards."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

#: Many processes, each of which takes seconds to start.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(scope="module")
def script(phantoms, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")

    def run(name, *arguments, directory=ROOT, **settings):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTORCH_TRAIN")}
        environment |= {"DEVICE": "cpu", "PYTHON": sys.executable, "PHANTOMS": str(phantoms)}
        environment |= {"PYTORCH_TRAIN_CHECKPOINT": str(models)} | settings
        return subprocess.run(
            ["bash", f"scripts/{name}.sh", *arguments], cwd=directory, env=environment, capture_output=True, text=True,
            timeout=500,
        )  # fmt: skip

    return run


RESULT = re.compile(r"^RESULT,image_segmentation,0,\d+,[^,]*,\d{4}-\d\d-\d\d .+$", re.MULTILINE)


def test_precheckin_trains_and_evaluates_on_two_processes(script, tmp_path):
    done = script("precheckin", "--output_dir", str(tmp_path), ACCELERATORS="2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert RESULT.search(done.stdout)
    lines = (tmp_path / "mlperf.log").read_text().splitlines()
    events = [json.loads(line.split(":::MLLOG ", 1)[1]) for line in lines]
    values = {event["key"]: event["value"] for event in events}
    assert (values["train_samples"], values["eval_samples"], values["samples_per_epoch"]) == (8, 4, 8)


def test_the_four_card_settings_train_and_the_checkpoint_is_scored(script, tmp_path):
    out = str(tmp_path / "eval")
    done = script(
        "train_4mlu",
        "--epochs",
        "1",
        "--first_evaluation",
        "1",
        "--output_dir",
        out,
        "--workers",
        "0",
        ACCELERATORS="2",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert RESULT.search(done.stdout)
    scored = script("infer", "--output_dir", out)
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert RESULT.search(scored.stdout) and "mean_dice" in scored.stdout


def test_the_benchmark_prints_throughput_and_percentiles(script, tmp_path):
    done = script(
        "benchmark", "fp32-cpu", "--output_dir", str(tmp_path), "--benchmark_steps", "4", "--warmup_steps", "1"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert RESULT.search(done.stdout) and "samples/s" in done.stdout + done.stderr
    wrong = script("benchmark", "fp64-cpu")
    assert wrong.returncode == 2 and "usage" in wrong.stderr


@pytest.mark.parametrize("name", ["train_4mlu", "train_8mlu", "precheckin", "infer"])
def test_a_missing_device_is_an_error_and_the_result_line_still_comes(script, name, phantoms, tiny_checkpoint):
    checkpoint = [str(tiny_checkpoint)] if name == "infer" else []  # a missing one would be reported first
    done = script(name, *checkpoint, DEVICE="xpu:7", ACCELERATORS="1")
    assert done.returncode != 0
    assert "is not available" in done.stderr and RESULT.search(done.stdout)


def test_a_wrong_value_for_two_processes_ends_with_its_exit_code(script):
    done = script("train", "--precision", "int8", ACCELERATORS="2", PHANTOMS="")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert 1 <= len(errors) <= 2 and set(errors) == {
        "error: precision must be one of auto, fp32, tf32, bf16, fp16, got 'int8'"
    }


def test_four_processes_without_their_cards_end_with_one_line(script, tmp_path):
    done = script("train_4mlu", "--output_dir", str(tmp_path), DEVICE="mlu", PYTORCH_TRAIN_DATASET=str(tmp_path))
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert errors[0].startswith("error: device 'mlu' is not available")


def test_the_result_line_has_the_seed_that_was_given_to_the_script(script):
    done = script("train_4mlu", "--seed", "7", DEVICE="xpu:7", ACCELERATORS="1")
    assert "\nRESULT,image_segmentation,7," in done.stdout


def test_all_that_a_training_writes_goes_where_its_checkpoints_go(script, preprocessed_phantoms, tiny_config, tmp_path):
    """In an image the project's directory belongs to someone else."""
    project, out = tmp_path / "project", tmp_path / "checkpoints"
    for name in ("scripts", "bundle"):
        ignored = shutil.ignore_patterns("models", "eval")
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    before = sorted(project.rglob("*"))
    settings = {**json.loads(tiny_config.read_text()), "epochs": 1}
    options = [part for key, value in settings.items() for part in (f"--{key}", json.dumps(value))]
    done = script(
        "train", "--dataset_dir", str(preprocessed_phantoms), *options,
        directory=project, PYTORCH_TRAIN_CHECKPOINT=str(out), PYTORCH_TRAIN_DATASET="unused", ACCELERATORS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "model.pt").is_file() and (out / "eval" / "mlperf.log").is_file()
    assert sorted(project.rglob("*")) == before


def test_on_hardware_no_operation_runs_quietly_on_the_cpu_unless_asked_to():
    for given, then in (({}, "0"), ({"ENABLE_FALLBACK_TO_CPU": "1"}, "1")):
        outer = {key: value for key, value in os.environ.items() if key != "ENABLE_FALLBACK_TO_CPU"}
        said = subprocess.run(
            ["bash", "-c", '. scripts/env.sh; "$PYTHON" -c "import os; print(os.environ[\'ENABLE_FALLBACK_TO_CPU\'])"'],
            cwd=ROOT, env={**outer, "DEVICE": "mlu", "PYTHON": sys.executable, **given}, capture_output=True, text=True,
        )  # fmt: skip
        assert said.stdout == f"{then}\n", said.stderr


def test_what_the_scripts_write_by_default_is_not_for_the_repository():
    assert {"/models/", "/phantoms/"} <= set((ROOT / ".gitignore").read_text().splitlines())


@pytest.fixture(scope="module")
def quickstart(script, tmp_path_factory):
    """Run the quickstart in an environment that is ready, with few cases and seconds of training."""
    pytest.importorskip("matplotlib")
    directory = tmp_path_factory.mktemp("quickstart")
    venv = directory / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    (venv / "bin" / "python").chmod(0o755)
    stamp = subprocess.run(
        ["bash", "-c", "cat setup.cfg constraints.txt pyproject.toml | cksum; pwd -P"], cwd=ROOT, capture_output=True
    )
    (venv / ".installed-figures").write_bytes(stamp.stdout)

    def run(minutes):
        out = directory / "out"
        done = script("quickstart", VENV=str(venv), OUT=str(out), CASES="6", MINUTES=minutes)
        assert done.returncode == 0, done.stderr[-3000:]
        model = torch.load(out / "models" / "model_final.pt", weights_only=True)
        return out, done, model

    return run


@pytest.mark.parametrize("wrong", [{"MINUTES": "0"}, {"MINUTES": "6m"}, {"SEED": "a"}, {"CASES": "-1"}])
def test_the_quickstart_refuses_wrong_values_at_once(script, wrong, tmp_path):
    done = script("quickstart", OUT=str(tmp_path / "out"), **wrong)
    assert done.returncode == 2 and "error: MINUTES must be a number above 0" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_quickstart_runs_and_a_larger_budget_continues_its_training(quickstart):
    out, done, first = quickstart("0.2")
    assert "installing" not in done.stdout and "Done in" in done.stdout
    assert sorted(json.loads((out / "scores.json").read_text())["cases"]) == ["case_00000", "case_00005"]
    assert (out / "picture.png").stat().st_size > 10_000 and (out / "models" / "model.pt").is_file()
    assert first["seconds"] >= 12
    # Seconds of training are not enough, and the last lines say so, with a way out.
    assert "BELOW those of README (at least kidney Dice 0.88, tumour Dice 0.40)" in done.stdout
    assert f"OUT={out} CASES=6 MINUTES=20 bash scripts/quickstart.sh" in done.stdout
    assert "simulated scans only" in done.stdout
    assert f"{first['iteration']} steps of 2 patches from 4 phantoms" in done.stdout
    assert "trained on phantoms (simulated CT) only" in done.stderr

    again = quickstart("0.2")[2]
    assert again["iteration"] == first["iteration"]  # the budget is used up

    _, done, longer = quickstart("0.3")
    assert longer["iteration"] > first["iteration"] and longer["seconds"] >= 18
    assert f"resuming from {out}/models/last_{first['iteration']:08d}.pt" in done.stdout + done.stderr
