"""Keys that nothing reads are found before anything runs, and the nearest known one is named."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.runtime.command_line import read_overrides
from kits_unet3d.pipeline.runtime.configuration import parameters_of, unread_key
from kits_unet3d.pipeline.runtime.errors import UsageError

CONFIGS = ROOT / "bundle" / "configs"


def content(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("epoch", "epochs"),
        ("learningrate", "learning_rate"),
        ("train::trainr::max_epochs", "train::trainer"),
        ("train#handler", "train::handlers"),
        ("xyzzy", None),
    ],
)
def test_the_nearest_known_key_is_found(key, found):
    assert unread_key([content("train")], [key]) == (key, found)


@pytest.mark.parametrize("key", ["epochs", "train::trainer::max_epochs", "train::trainer::epoch_length", "loss#gamma"])
def test_what_is_there_and_what_a_component_may_take_is_known(key):
    assert unread_key([content("train")], [key]) is None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_all_overlays_here_are_known(path):
    if path.stem not in ("metadata", "train", "inference"):
        assert unread_key([content("train"), content(path.stem)]) is None


def test_an_overlay_may_name_what_it_reads_itself_and_nothing_else():
    overlay = {"rate": 0.1, "learning_rate": "@rate"}
    assert unread_key([content("train"), overlay]) is None
    assert unread_key([content("train"), {**overlay, "batchsize": 3}]) == ("batchsize", "batch_size")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training", "--config_file", "bundle/configs/train.json", "--epoch", "5"], "the nearest known one is epochs"),
        (
            ["inferring", "--config_file=bundle/configs/inference.json", "--ckpt-pth=none.pt"],
            "unknown key ckpt_pth; the nearest known one is ckpt_path",
        ),
        (
            [
                "evaluating",
                "--config_file",
                "['bundle/configs/train.json','bundle/configs/evaluate.json']",
                "--xyz",
                "1",
            ],
            "unknown key xyz",
        ),
        (
            [
                "training",
                "--config_file",
                "['bundle/configs/train.json','bundle/configs/dynunet_ds.json']",
                "--fold",
                "None",
                "--poly_power=None",
            ],
            '--poly_power None: MONAI would leave it at 0.9; write {"poly_power": null} to a file, and',
        ),
    ],
)
def test_arguments_that_monai_would_silently_ignore_are_refused(arguments, message):
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments, "--device_name", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--poly_power", "None"], "poly_power"),
        (["--network_factory::res_block=None"], "network_factory::res_block"),
        (["--train#handlers#0#_target_", "None"], "train#handlers#0#_target_"),
        (["--fold", "None"], None),  # it has no value as it is
        (["--max_minutes", "None"], "max_minutes"),  # but the file of arguments gives one
        ([], None),  # a null of that file is heard
    ],
)
def test_none_on_the_command_line_is_refused_where_there_is_a_value(flags, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = {"config_file": ["bundle/configs/train.json", "bundle/configs/dynunet_ds.json"], "max_minutes": 5}
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({**arguments, "average_decay": None}))
    program = str(ROOT / "monai" / "bundle" / "__main__.py")
    argv = [program, "run", "training", "--args_file", str(file), *flags]
    if refused is None:
        read_overrides(argv)
        return
    with pytest.raises(UsageError, match=f"--{refused} None: MONAI would leave it at"):
        read_overrides(argv)


def test_monai_is_told_in_a_sentence_of_a_fold_that_there_is_not():
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "bundle/configs/train.json"]
    done = subprocess.run([*command, "--fold", "9"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert (
        "error: fold must be a whole number from 0 and below folds, got 9 of 5" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("command", [["prepare", "--data-dir", ".", "-o", "out"], ["device", "--device", "cpu"]])
@pytest.mark.parametrize(("key", "near"), [("xyzzy", "see the first"), ("hu_men", "hu_mean"), ("hu_range", "hu_")])
def test_a_command_refuses_a_configuration_with_a_key_that_nothing_reads(
    command, key, near, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({key: 1}))
    configs = [str(overlay)] if command[0] == "prepare" else [str(CONFIGS / "train.json"), str(overlay)]
    assert main([*command, "--config", *configs]) == 2
    error = capsys.readouterr().err
    assert f"unknown key {key}" in error and near in error


def test_almost_a_key_of_the_recipe_is_refused_in_preparation(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = tmp_path / "config.json"
    config.write_text('{"spacing_m": [3, 2, 2]}')
    with pytest.raises(UsageError, match="config.json: not a usable.*unknown key spacing_m; the nearest.*spacing_mm"):
        parameters_of(config)
    config.write_text((CONFIGS / "train.json").read_text())
    assert parameters_of(config) == parameters_of(None)


def test_nested_preprocessing_parameters_are_read_too(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"hu_mean": 50.0, "preprocessing_parameters": {"hu_std": 20.0}}))
    parameters = parameters_of(tmp_path / "a.json")
    assert (parameters.hu_mean, parameters.hu_std) == (50.0, 20.0)
    assert parameters_of(CONFIGS / "train.json") == parameters_of(None)
