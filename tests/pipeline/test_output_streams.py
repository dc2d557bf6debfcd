"""Commands whose output is closed, of another encoding, or lost while they run."""

import json
import os
import subprocess
import sys

import pytest
from niftis import nifti

CLI = f"{sys.executable} -m kits_unet3d.pipeline.cli"


@pytest.fixture
def batch(tmp_path, model_file):
    """A command that predicts two scans, and the directory of their masks."""
    (tmp_path / "in").mkdir()
    for name in ("a", "扫描"):
        nifti(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    return f"{CLI} predict {tmp_path / 'in'} -o {out} --checkpoint {model_file} --device cpu --no-html-report", out


@pytest.mark.parametrize("ending", [">&-", "2>&-", ">&- 2>&- <&-", "| true", "2>&1 | true", "2>/dev/full"])
def test_a_batch_finishes_without_its_output(batch, ending):
    command, out = batch
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{command} {ending}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("*_seg.nii.gz"))) == 2
    assert json.loads((out / "summary.json").read_text())["summary"]["failed"] == 0
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_full_disk_behind_the_output_is_reported_after_the_batch(batch):
    command, out = batch
    done = subprocess.run(["bash", "-c", f"{command} --json >/dev/full"], capture_output=True, text=True)
    assert done.returncode == 1 and "error: the output could not be written (No space left" in done.stderr
    assert len(list(out.glob("*_seg.nii.gz"))) == 2


def test_names_that_the_output_cannot_encode_are_escaped(batch):
    command, out = batch
    done = subprocess.run(
        command.split(), capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and r"\u626b\u63cf_seg.nii.gz" in done.stdout
    assert len(list(out.glob("*_seg.nii.gz"))) == 2
