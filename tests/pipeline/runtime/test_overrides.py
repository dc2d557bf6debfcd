"""Overrides of a configuration have the type of the value that they override, on each command line."""

import json
import logging
import os
import runpy
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from conftest import CONFIGS, ROOT, bundle_config
from dicoms import write_series
from niftis import ct, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.overrides import require_types, typed

TRAIN = [bundle_config("train"), bundle_config("dynunet_ds"), bundle_config("dynunet_ds_cpu")]
INFERENCE = [bundle_config("inference")]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("keep_names", "false", False),
        ("tta", "True", True),
        ("html_report", "false", False),
        ("input", "scans#2", "scans#2"),
        ("input", "'scans#2'", "scans#2"),
        ("output_dir", "2024_01_02", "2024_01_02"),
        ("series", "1.10", "1.10"),
        ("max_memory", "8", "8"),
        ("backend", "None", None),
        ("volume", "2", 2),
        ("min_tumour_mm3", "1e3", 1000.0),
        ("hu_offset", "-1024", -1024),
        ("spacing", "[5, 1.5, 1.5]", [5, 1.5, 1.5]),
        ("windows", "[body,even]", ["body", "even"]),
        ("windows", "body,even", ["body", "even"]),
        ("reading::allow_gaps", "false", False),
        ("batch#predictor#postprocessing#min_tumour_mm3", "5", 5),
        ("evaluator#amp", "$not True", "$not True"),
        ("evaluator#epoch_length", "3", 3),
        ("series", "null", "null"),
    ],
)
def test_an_override_of_inference_has_the_type_of_its_key(key, text, value):
    found = typed(key, text, INFERENCE)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("epochs", "3", 3),
        ("train::trainer::max_epochs", "1e3", 1000),
        ("learning_rate", "1", 1.0),
        ("decay_epochs", "[]", []),
        ("max_minutes", "0.5", 0.5),
        ("fold", "null", None),
        ("class_weights", "[1, 1, 3]", [1, 1, 3]),
        ("network_factory::res_block", "false", False),
        ("optimizer#dampening", "0.1", 0.1),
        ("channels", "[2, 4.0]", [2, 4]),
        ("hu_window", "[-80, 300]", [-80, 300]),
        ("loss", "{'_target_': 'DiceLoss'}", {"_target_": "DiceLoss"}),
        ("precision", "1", "1"),
        ("resume", "False", False),
        ("resume", "models/last.pt", "models/last.pt"),
        ("seed", "-1", -1),
    ],
)
def test_an_override_of_training_has_the_type_of_its_key(key, text, value):
    found = typed(key, text, TRAIN)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("epochs", "ten", "epochs must be a whole number, at least 1, got 'ten'"),
        ("batch_size", "0", "batch_size must be a whole number, at least 1, got '0'"),
        ("workers", "1.5", "workers must be a whole number, at least 0"),
        ("channels_last", "maybe", "channels_last must be true or false, got 'maybe'"),
        ("learning_rate", "high", "learning_rate must be a number"),
        ("learning_rate", "True", "learning_rate must be a number"),
        ("learning_rate", "1e999", "learning_rate must be a number"),
        ("roi_size", "64", r"roi_size must be a list such as \[128, 128, 128\]"),
        ("roi_size", "[64, 64, many]", "roi_size must be a list"),
        ("classes", "[1, 2]", "classes must be a list"),
        ("channels", "[2, 4.5]", "channels must be a list"),
        ("spacing", "['a', 1, 2]", "spacing must be a list"),
        ("train::trainer::max_epochs", "many", "train::trainer::max_epochs must be a whole number"),
    ],
)
def test_an_override_of_another_type_is_refused(key, text, message):
    with pytest.raises(UsageError, match=message):
        typed(key, text, TRAIN)


def test_an_overlay_with_text_for_another_type_is_refused():
    require_types(
        [*TRAIN, {"roi_size": "$[64] * 3", "precision": "bf16", "train::trainer::amp": False, "resume": "a.pt"}]
    )
    with pytest.raises(UsageError, match="channels_last must be true or false, got the text 'false'"):
        require_types([*TRAIN, {"channels_last": "false"}])


@pytest.fixture
def monai(monkeypatch, tmp_path):
    """Run the command line of MONAI's bundles in this process; return its exit code."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["monai.bundle", *map(str, arguments), "--logging_file", "False"])
        monkeypatch.setattr(sys, "path", list(sys.path))  # MONAI adds the bundle's directory
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended, pytest.warns(UserWarning, match="parsing config_file"):
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        return ended.value.code

    return run


def test_the_bundle_predicts_with_its_options_as_written(monai, tmp_path, tiny_checkpoint, caplog):
    caplog.set_level(logging.INFO)
    for series, value in (("1.10", 40), ("1.1", 80)):
        voxels = np.full((16, 20, 12), value, np.int16)
        voxels[:, 0] = -1000
        number = series.replace(".", "")
        write_series(tmp_path / "scans#2" / "Doe_Jane", voxels, SeriesDescription=series, SeriesNumber=number,
                     SeriesInstanceUID=f"1.2.3.{number}")  # fmt: skip
    (tmp_path / "scans").mkdir()
    nifti(tmp_path / "scans" / "other.nii.gz", ct())
    options = {
        "input": "scans#2", "output_dir": "2024_01_02", "series": "1.10", "keep_names": "false", "tta": "False",
        "html_report": "false", "backend": "eager", "device_name": "cpu", "ckpt_path": tiny_checkpoint,
    }  # fmt: skip
    line = [f"--{key}={value}" for key, value in options.items()]
    assert monai("run", "inferring", "--config_file", CONFIGS / "inference.json", *line) == 0
    masks = list((tmp_path / "2024_01_02").glob("*_seg.nii.gz"))
    assert len(masks) == 1 and "Doe" not in masks[0].name + caplog.text
    assert not list((tmp_path / "2024_01_02").glob("*.html"))
    before = masks[0].stat().st_mtime_ns
    line = ["run_workflow", "--workflow_type", "infer", "--config_file", CONFIGS / "inference.json", *line]
    assert monai(*line, "--overwrite", "false") == 0
    assert masks[0].stat().st_mtime_ns == before and nib.load(masks[0]).shape == (12, 20, 16)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("train", ["--precision", "int8"], "precision must be one of auto, fp32"),
        ("train", ["--device_name", "xpu:7"], "device 'xpu:7' is not available"),
        ("train", ["--batch_size", "0"], "batch_size must be a whole number"),
        ("train", ["--fold", "9"], "got 9 of 5"),
        ("inference", ["--trust", "both", "--input", "."], "trust must be sform or qform, got both"),
        ("inference", ["--roi", "half", "--input", "."], "roi must be one of"),
    ],
)
def test_a_wrong_value_ends_the_bundle_with_one_line(config, options, message, monai, tiny_checkpoint, capsys):
    model = ["--ckpt_path", tiny_checkpoint] if config == "inference" else []
    assert monai("run", "--config_file", CONFIGS / f"{config}.json", *model, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if message in line and line.startswith("error: ")]) == 1
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("command", [["run"], ["run_workflow", "--workflow_type", "infer"]])
def test_each_command_of_monai_ends_with_one_line(command, tmp_path, tiny_checkpoint):
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *command, "--trust", "both"]
    line += ["--config_file", str(CONFIGS / "inference.json"), "--input", tmp_path, "--ckpt_path", tiny_checkpoint]
    environment = {**os.environ, "MONAI_DEBUG": "0"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == "error: trust must be sform or qform, got both\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("channels_last=maybe", "channels_last must be true or false"),
        ("epochs=ten", "epochs must be a whole number"),
        ("precision=int8", "precision must be one of"),
    ],
)
def test_the_command_train_refuses_the_same_values(setting, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["train", "-o", str(tmp_path), "--set", "device_name=cpu", setting]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"error: {message}") for line in errors)


def test_the_command_train_takes_text_as_written(preprocessed_phantoms, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = ["bundle/configs/train.json", str(tiny_config)]
    line = ["train", "-o", str(tmp_path / "out #1"), "--dataset-dir", str(preprocessed_phantoms), "--config", *config]
    settings = ["device_name=cpu", "epochs=1", "channels_last=false", "submission_org=1.10"]
    assert main([*line, "--set", *settings]) == 0
    assert (tmp_path / "out #1" / "models" / "model.pt").is_file()
    lines = (tmp_path / "out #1" / "eval" / "mlperf.log").read_text().splitlines()
    values = {one["key"]: one["value"] for one in (json.loads(line.split(":::MLLOG ", 1)[1]) for line in lines)}
    assert values["submission_org"] == "1.10"
