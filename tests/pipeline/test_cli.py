import json
import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import COMMANDS, build_parser, main
from kits_unet3d.pipeline.device import PRECISIONS
from kits_unet3d.pipeline.inference.backends import BACKENDS
from kits_unet3d.pipeline.inference.window_selection import OPTIONS, ROIS
from kits_unet3d.pipeline.io.mask import FORMATS
from kits_unet3d.pipeline.runtime.errors import UsageError


def test_help_names_every_command_and_each_has_an_example(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"example: kits-unet3d {command}" in " ".join(capsys.readouterr().out.split())


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from kits_unet3d.pipeline.cli import build_parser; build_parser(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prepare", "--data-dir", "nowhere", "-o", "out"], 2, "nowhere: no such file or directory"),
        (["phantom", "-o", "out"], 2, "--cases"),
        (["phantom", "-o", "out", "--cases", "0"], 2, "cases"),
        (["verify", "--dataset-dir", "nowhere"], 2, "no such file or directory"),
        (["predict", "nowhere.nii.gz", "-o", "out"], 2, "nowhere.nii.gz"),
        (["evaluate", "--predictions", ".", "--labels", "."], 2, "no mask"),
        (["evaluate", "--predictions", ".", "--labels", ".", "-o", "a.csv"], 2, "both JSON and CSV"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_with_an_exit_code(
    tmp_path, monkeypatch, capsys, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_missing_model_is_exit_code_3(tmp_path, capsys, raw_phantoms):
    scan = raw_phantoms / "case_00000" / "imaging.nii.gz"
    assert main(["predict", str(scan), "-o", str(tmp_path), "--checkpoint", str(tmp_path / "none.pt")]) == 3
    assert "none.pt: no such checkpoint" in capsys.readouterr().err


@pytest.fixture
def tiny_model(tmp_path):
    model = {"model": UNet3D(channels=(2, 4)).state_dict()}
    model["network"] = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [2, 4]}
    model["preprocessing_parameters"] = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
    torch.save(model, tmp_path / "model.pt")
    return str(tmp_path / "model.pt")


def test_one_bad_scan_fails_alone(tmp_path, capsys, raw_phantoms, tiny_model):
    bad, thin = tmp_path / "bad.nii.gz", tmp_path / "thin.nii.gz"
    bad.write_bytes(b"not an image")
    nib.save(nib.Nifti1Image(np.full((40, 40, 2), -900, np.int16), np.eye(4)), thin)
    good = raw_phantoms / "case_00000" / "imaging.nii.gz"
    code = main(["predict", str(bad), str(thin), str(good), "-o", str(tmp_path / "o"), "--checkpoint", tiny_model])
    printed = capsys.readouterr()
    assert code == 1 and "bad.nii.gz: its header ends" in printed.err
    assert printed.err.count("failed:") == 1
    mask, scan = nib.load(tmp_path / "o" / "case_00000_seg.nii.gz"), nib.load(good)
    assert mask.shape == scan.shape and np.array_equal(mask.affine, scan.affine)
    assert nib.load(tmp_path / "o" / "thin_seg.nii.gz").shape == (40, 40, 2)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("network", {"_target_": "kits_unet3d.networks.UNet3D", "chanels": [2, 4]}),
        ("preprocessing_parameters", {"spacing": 3}),
    ],
)
def test_a_checkpoint_with_unusable_metadata_is_exit_code_3(tmp_path, capsys, raw_phantoms, tiny_model, part, value):
    content = torch.load(tiny_model, weights_only=True)
    torch.save({**content, part: value}, tiny_model)
    scan = str(raw_phantoms / "case_00000" / "imaging.nii.gz")
    assert main(["predict", scan, "-o", str(tmp_path / "o"), "--checkpoint", tiny_model]) == 3
    assert "model.pt: its" in capsys.readouterr().err


def printed_json(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def test_for_machines_a_command_prints_one_json_document_and_nothing_else(tmp_path, capsys, raw_phantoms, tiny_model):
    code, results, _ = printed_json(
        capsys, "phantom", "--cases", "1", "-o", tmp_path / "raw", "--shape", "24", "40", "40", "--spacing-mm", "12",
        "9", "9",
    )  # fmt: skip
    assert (code, results["cases"]) == (0, ["case_00000"])
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}))
    code, results, _ = printed_json(
        capsys, "prepare", "--data-dir", raw_phantoms, "-o", tmp_path / "preprocessed", "--config", config
    )
    assert code == 0 and len(results["cases"]) == 5 and results["failed"] == {}
    code, results, _ = printed_json(capsys, "verify", "--dataset-dir", tmp_path / "preprocessed")
    assert (code, results["counts"]) == (0, {"right": 10}) and results["files"]["case_00000_x.npy"] == "right"
    scan = raw_phantoms / "case_00000" / "imaging.nii.gz"
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not an image")
    masks = tmp_path / "masks"
    code, results, told = printed_json(capsys, "predict", scan, bad, "-o", masks, "--checkpoint", tiny_model)
    assert (code, results["failed"], results["summary"]["failed"]) == (1, ["bad"], 1)
    assert set(results["cases"]["case_00000"]["volumes_ml"]) == {"kidney", "tumour"} and "case_00000_seg" in told
    code, results, _ = printed_json(
        capsys, "evaluate", "--allow-missing", "--predictions", masks, "--labels", raw_phantoms
    )
    assert code == 0 and results["cases"]["case_00000"]["kidney_dice"] == results["mean"]["kidney_dice"]


def test_for_machines_an_error_is_a_document_too(tmp_path, capsys):
    code, results, told = printed_json(capsys, "verify", "--dataset-dir", tmp_path)
    assert code == 2 and results == {
        "error": f"{tmp_path}: contains no preprocessed file; run `kits-unet3d prepare` first",
        "exit_code": 2,
    }
    assert told.endswith(f"error: {tmp_path}: contains no preprocessed file; run `kits-unet3d prepare` first\n")


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"kits-unet3d \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_line_is_one_json_document_too(command, capsys):
    code, results, told = printed_json(capsys, command, "--no-such-option")
    assert code == results["exit_code"] == 2 and results["error"]
    assert told.startswith("usage: kits-unet3d") and f"error: {results['error']}" in told


def test_help_shows_only_defaults_that_say_something(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert "default: None" not in shown and "default: False" not in shown
    assert "example: kits-unet3d predict" in build_parser().format_help()


@pytest.mark.slow
def test_a_device_that_is_not_there_is_said_once_for_all_cards():
    command = [
        sys.executable,
        "-m",
        "kits_unet3d.pipeline.cli",
        "device",
        "--device",
        "abacus",
        "--accelerators",
        "2",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "abacus" in json.loads(done.stdout)["error"]


def test_without_argcomplete_a_shell_that_asks_gets_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main([]) == 2
    assert "kits-unet3d[completion]" in capsys.readouterr().err


def test_where_an_error_came_from_is_shown_on_demand(tmp_path, capsys):
    for debug, shown in (([], False), (["--debug"], True)):
        assert main(["verify", "--dataset-dir", str(tmp_path), *debug]) == 2
        assert ("Traceback" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kits-unet3d exp", ["export"]),
        ("kits-unet3d predict scan.nii.gz --prec", ["--precision"]),
        ("kits-unet3d predict scan.nii.gz --roi c", ["coarse"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(tmp_path, line, expected):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line}
    asked |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli"]
    subprocess.run(command, env={**os.environ, **asked}, check=True)
    assert answer.read_text().split("\n") == expected


def test_the_choices_of_predict_are_those_of_its_parts():
    """The command line lists them again, since importing the parts takes seconds."""
    actions = build_parser("predict")._subparsers._group_actions[0].choices["predict"]._actions
    choices = {action.dest: tuple(action.choices) for action in actions if action.choices}
    assert choices["backend"] == ("auto", *BACKENDS) and choices["precision"] == PRECISIONS
    assert choices["windows"] == ("reference", *OPTIONS) and choices["roi"] == ROIS
    assert choices["format"] == FORMATS


def test_a_command_builds_the_options_of_no_other(capsys):
    parser = build_parser("verify")
    assert parser.parse_args(["verify", "--dataset-dir", "a"]).dataset_dir == "a"
    with pytest.raises(UsageError, match="invalid choice: 'predikt' .*predict"):
        build_parser().parse_args(["predikt"])
