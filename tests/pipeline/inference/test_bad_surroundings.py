"""Batches in directories, on disks and with models that something is wrong with, through the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from niftis import nifti

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import main


def test_files_of_the_same_name_keep_their_directories(tmp_path, predict):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nifti(tmp_path / "in" / name / "scan.nii.gz")
    code, _, cases = predict(tmp_path / "in")
    assert code == 0 and {"a/scan", "b/scan"} < set(cases)
    assert (tmp_path / "out" / "b" / "scan_seg.nii.gz").is_file()


def test_broken_and_circular_links_are_reported(tmp_path, predict):
    scans = tmp_path / "in"
    scans.mkdir()
    nifti(scans / "scan.nii.gz")
    (scans / "gone.nii.gz").symlink_to("nowhere")
    (scans / "self.nii.gz").symlink_to("self.nii.gz")
    (scans / "loop").symlink_to("..", target_is_directory=True)
    (scans / "again").symlink_to(".", target_is_directory=True)
    code, _, cases = predict(scans)
    assert code == 0 and "scan" in cases
    left_out = json.loads((tmp_path / "out" / "summary.json").read_text())["left_out"]
    assert {os.path.basename(path) for path in left_out} == {"gone.nii.gz", "self.nii.gz", "again", "loop"}


@pytest.mark.parametrize("name", ["with space.nii.gz", "Ünïcødé 扫描.nii.gz", "-dash.nii.gz", "a'b\"c.nii.gz"])
def test_any_file_name_works(tmp_path, predict, monkeypatch, name):
    nifti(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    code, _, _ = predict(name)
    assert code == 0 and (tmp_path / "out" / name.replace(".nii.gz", "_seg.nii.gz")).is_file()


def test_an_unwritable_output_directory_is_found_before_model_loading(tmp_path, capsys):
    scan, file = nifti(tmp_path / "scan.nii.gz"), tmp_path / "file"
    file.touch()
    # The model does not exist either, which would be exit code 3.
    assert main(["predict", str(scan), "-o", str(file / "out"), "--checkpoint", "none.pt"]) == 2
    assert "nothing can be written there" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not sys.platform.startswith("linux") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root, where it may, can mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_finished_files_and_no_partial_ones(tmp_path, model_file, small_disk, capsys):
    noise = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)
    scans = [nifti(tmp_path / "a.nii.gz"), nifti(tmp_path / "b.nii", noise), nifti(tmp_path / "c.nii.gz")]
    out = small_disk / "out"
    command = ["predict", *map(str, scans), "-o", str(out), "--checkpoint", str(model_file), "--no-html-report"]
    assert main([*command, "--probabilities"]) == 1  # which are 1.5 MB of the second
    error = capsys.readouterr().err
    assert "b.nii" in error and "No space left" in error and "1 of 3 scans failed (b)" in error
    finished = {f"{name}_{ending}" for name in "ac" for ending in ("seg.nii.gz", "probabilities.npy", "report.json")}
    assert {path.name for path in out.iterdir()} == {*finished, "summary.json", "summary.csv", "kits-unet3d.log"}


def test_a_batch_ends_when_two_scans_in_a_row_find_no_space(tmp_path, model_file, small_disk, capsys):
    noise = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)
    scans = [nifti(tmp_path / f"{name}.nii.gz", *([] if name == "a" else [noise])) for name in "abcde"]
    command = ["predict", *map(str, scans), "-o", str(small_disk / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--no-html-report", "--probabilities"]) == 1
    output, error = capsys.readouterr()
    assert "[1/5]" in output and error.count("its results cannot be written (No space left on device)") == 2
    assert "so 2 scans were not tried; free disk space" in error and "4 of 5 scans failed (b, c, d, e)" in error
    assert "Errno" not in error


def test_what_a_search_leaves_out_is_said_at_once(tmp_path, model_file, capsys):
    (tmp_path / "in").mkdir()
    nifti(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    command = ["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--no-html-report"]) == 0
    assert (
        "left out: " in (shown := capsys.readouterr().out) and "b.nii.gz: a broken or circular symbolic link" in shown
    )


@pytest.mark.parametrize(("given", "message"), [("m.dcm", "the ending .dcm is that of a file"), (" ", "is empty")])
def test_no_directory_gets_the_name_of_a_file(tmp_path, capsys, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(nifti(tmp_path / "scan.nii.gz")), "-o", given]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / given).exists()


def test_an_unwritable_report_is_reported_and_all_scans_finish(tmp_path, model_file, capsys):
    scans = [nifti(tmp_path / f"{name}.nii.gz") for name in "abc"]
    out = tmp_path / "out"
    (out / "summary.json").mkdir(parents=True)  # where nothing can be written, however much room there is
    command = ["predict", *map(str, scans), "-o", str(out), "--checkpoint", str(model_file), "--no-html-report"]
    assert main(command) == 1
    assert "the report could not be written" in capsys.readouterr().err
    assert len(list(out.glob("*_seg.nii.gz"))) == 3
    (out / "summary.json").rmdir()
    assert main([*command, "--overwrite"]) == 0 and len(json.loads((out / "summary.json").read_text())["cases"]) == 3


def test_a_name_with_a_byte_that_is_no_text_is_done_and_told(tmp_path, model_file):
    for name in (b"sc\xffan.nii.gz", b"b\xffad.nii.gz", b"last.nii.gz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        nifti(tmp_path / "in" / os.fsdecode(name))
    (tmp_path / "in" / os.fsdecode(b"b\xffad.nii.gz")).write_bytes(b"")
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "predict", str(tmp_path / "in")]
    command += ["-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "b\\udcffad.nii.gz: the file is empty" in done.stderr, done.stderr
    assert r"sc\udcffan_seg.nii.gz" in done.stdout
    report = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert report["summary"]["failed"] == 1 and sum(report["summary"].values()) == 3
    assert r"sc\udcffan" in (tmp_path / "out" / "summary.csv").read_text()


def test_an_unusable_model_is_exit_code_3(tmp_path, model_file, capsys):
    scan, out = str(nifti(tmp_path / "scan.nii.gz")), str(tmp_path / "out")
    damaged, other = tmp_path / "damaged.pt", tmp_path / "other.pt"
    damaged.write_bytes(model_file.read_bytes()[:3000])
    content = torch.load(model_file, weights_only=True)
    torch.save({**content, "model": UNet3D(channels=(2, 8)).state_dict()}, other)
    small = tmp_path / "small.pt"
    torch.save({**content, "preprocessing_parameters": {"roi_size": [1, 1, 1]}}, small)
    blank = tmp_path / "blank.pt"
    torch.save({**content, "model": {name: 0 * value for name, value in content["model"].items()}}, blank)
    refused = [
        (damaged, "damaged.pt: damaged"),
        (other, "(4, 2, 3, 3, 3) in the network"),
        (blank, "are 0, so the file"),
    ]
    for path, message in (*refused, (small, "small.pt: its network cannot take windows of its roi_size 1 x 1 x 1")):
        assert main(["predict", scan, "-o", out, "--checkpoint", str(path)]) == 3
        assert message in capsys.readouterr().err


class Code:
    def __reduce__(self):
        return os.mkdir, ("pickled-code-was-run",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, model_file, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**torch.load(model_file, weights_only=True), "extra": Code()}, "evil.pt")
    assert main(["predict", str(nifti(tmp_path / "scan.nii.gz")), "-o", "out", "--checkpoint", "evil.pt"]) == 3
    assert "evil.pt" in capsys.readouterr().err and not (tmp_path / "pickled-code-was-run").exists()


def test_an_unknown_option_is_exit_code_2(capsys):
    assert main(["predict", "scan.nii.gz", "-o", "out", "--seris", "2"]) == 2
    assert "--seris" in capsys.readouterr().err


def test_a_scan_without_a_kidney_finishes_with_a_flag(tmp_path, model_file, predict):
    content = torch.load(model_file, weights_only=True)
    bias = next(name for name in content["model"] if name.startswith("output") and name.endswith("bias"))
    content["model"][bias] = torch.tensor([100.0, 0, 0])
    torch.save(content, tmp_path / "blind.pt")
    code, _, cases = predict(nifti(tmp_path / "scan.nii.gz"), "--checkpoint", tmp_path / "blind.pt")
    assert code == 0 and "no kidney" in cases["scan"]["flags"]


def test_a_single_mask_that_needs_a_review_is_called_so(tmp_path, model_file, capsys):
    scan, command = str(nifti(tmp_path / "a.nii.gz")), ["--checkpoint", str(model_file), "--no-html-report"]
    assert main(["predict", scan, "-o", str(tmp_path / "out"), *command]) == 0
    outcome = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]["a"]["outcome"]
    capsys.readouterr()
    assert main(["predict", scan, "-o", str(tmp_path / "one.nii.gz"), *command[:2]]) == 0
    assert outcome == "review" and f"review: {tmp_path / 'one.nii.gz'}: kidney" in capsys.readouterr().out
