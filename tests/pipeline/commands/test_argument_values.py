"""Values of a command line that cannot be used: empty ones, wrong paths, numbers and addresses."""

import subprocess
import sys
from pathlib import Path

import pytest

from kits_unet3d.pipeline.cli import main

EMPTY = [["predict", "", "-o", "o"], ["predict", "a", "-o", ""], ["evaluate", "--predictions", "", "--labels", "."]]


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_value_is_refused(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "is empty" in capsys.readouterr().err and not list(tmp_path.iterdir())


WRONG_PATHS = [
    (["predict", "nope.nii.gz", "-o", "o"], 2, "nope.nii.gz: no such file"),
    (["predict", "scans", "-o", "o", "--checkpoint", "nope.pt"], 3, "nope.pt: no such checkpoint"),
    (["predict", "scans", "-o", "o", "--checkpoint", "."], 3, ".: is a directory; name the checkpoint in it"),
    (["unpack", "nope.zip", "-o", "o"], 2, "nope.zip: no such file"),
    (["evaluate", "--predictions", "scans", "--labels", "nope"], 2, "nope: no such file or directory"),
    (["picture", "scans/a.nii.gz", "--mask", "nope.nii", "-o", "p.png"], 2, "nope.nii: no such file"),
    (["export", "onnx", "--checkpoint", "nope.pt", "-o", "m.onnx"], 3, "nope.pt: no such checkpoint"),
    (["prepare", "--data-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["prepare", "--data-dir", "scans", "-o", "model.pt/o"], 2, "model.pt/o: nothing can be written there"),
    (["train", "--dataset-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["folds", "nope", "--data-dir", "scans", "-o", "o"], 2, "nope: no such file or directory"),
    (["export", "nnunet-dataset", "--data-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["phantom", "--labels", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["weights", "add", "nope.pt"], 3, "nope.pt: no such checkpoint"),
    (["benchmark", "-o", "o", "--checkpoint", "model.pt", "--scans", "nope"], 2, "nope: no such file or directory"),
]

IMPORTED = "import sys; from kits_unet3d.pipeline.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG_PATHS)
def test_a_wrong_path_is_reported_before_torch_is_imported(scans, arguments, code, message):
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(code), "False"] and message in done.stderr
    assert not Path("o").exists()


@pytest.mark.parametrize("patch", ["7", "0", "40"])
def test_a_patch_that_the_network_cannot_take_is_one_error(capsys, patch):
    assert main(["device", "--device", "cpu", "--patch", patch]) == 2
    error = capsys.readouterr().err
    assert f"--patch {patch}: the network cannot take such a patch" in error and "\n" not in error.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepare", "--data-dir", "a", "-o", "b", "--workers", "-3"],
            "must be a whole number of at least 1, got '-3'",
        ),
        (["phantom", "-o", "b", "--workers", "0"], "must be a whole number of at least 1, got '0'"),
        (["download", "-o", "b", "--timeout", "nan"], "must be a positive number of seconds, got 'nan'"),
        (["weights", "list", "--retries", "-1"], "must be a whole number of at least 0, got '-1'"),
        (["predict", "a", "-o", "b", "--volume", "0"], "must be a whole number of at least 1, got '0'"),
        (["weights", "download", "mlperf-kits19", "--url", "http://[::1"], "is not an http(s) address"),
        (["weights", "download", "mlperf-kits19", "--url", "https:// a/b"], "is not an http(s) address"),
    ],
)
def test_a_number_or_address_that_cannot_be_meant_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITS_UNET3D_HOME", str(tmp_path / "home"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_home_that_cannot_be_written_is_one_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KITS_UNET3D_HOME", str(tmp_path / "file"))
    assert main(["weights", "download", "mlperf-kits19", "--url", "http://127.0.0.1:9/a"]) == 2
    assert f"{tmp_path / 'file'}" in (error := capsys.readouterr().err) and "cannot be written" in error
