"""Commands whose output is closed, of another encoding, or lost while they run."""

import json
import logging
import os
import re
import subprocess
import sys

import pytest
from conftest import INFERRING, ROOT
from dicoms import write_series
from niftis import ct, nifti

from kits_unet3d.pipeline.runtime.output import LogFile, show

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


def log_of(directory):
    """The records of a log file, each as it was written: from its time to the next one's."""
    text = (directory / "kits-unet3d.log").read_text(encoding="utf-8")
    return re.split(r"\n(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} )", text.removesuffix("\n"))


def test_a_log_file_keeps_what_is_shown_and_what_is_not(batch):
    command, out = batch
    (out.parent / "in" / "bad.nii.gz").write_bytes(b"")
    shown = subprocess.run(command.split(), capture_output=True, text=True)
    first = log_of(out)
    for line in (*shown.stdout.splitlines(), *shown.stderr.splitlines()):
        assert any(record.endswith(f": {line}") for record in first), line
    assert any("options: {'precision': 'fp32'" in record for record in first) and "options:" not in shown.stdout
    assert "DEBUG" not in shown.stdout + shown.stderr and "'threads':" not in shown.stderr
    subprocess.run(command.split(), capture_output=True)
    assert log_of(out)[: len(first)] == first and len(log_of(out)) > len(first)


def test_a_log_file_names_no_patient(tmp_path, model_file):
    write_series(tmp_path / "in" / "DOE_JANE" / "ct", ct().T, PatientName="Doe^Jane", PatientID="4711-0815")
    (tmp_path / "in" / "DOE_JANE" / "bad.nii.gz").write_bytes(b"")
    command = f"{CLI} predict {tmp_path / 'in'} -o {tmp_path / 'out'} --checkpoint {model_file} --device cpu"
    assert subprocess.run(command.split(), capture_output=True).returncode == 1
    text = (tmp_path / "out" / "kits-unet3d.log").read_text()
    assert "failed: " in text and not re.search("doe|jane|4711", text, re.IGNORECASE)


def test_records_of_several_processes_stay_whole(tmp_path):
    program = (
        "import logging, sys\n"
        "from kits_unet3d.pipeline.runtime.output import LogFile\n"
        "with LogFile(sys.argv[1]):\n"
        "    for number in range(200): logging.getLogger('kits_unet3d').debug('%s end', sys.argv[2] * 5000)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    records = [record for record in log_of(tmp_path) if record.endswith(" end")]
    assert len(records) == 400 and all(
        record.endswith((5000 * "a" + " end", 5000 * "b" + " end")) for record in records
    )


def test_a_log_file_that_cannot_be_written_ends_nothing(tmp_path, capfd):
    (tmp_path / "kits-unet3d.log").mkdir()
    with LogFile(tmp_path):
        show("result")
    assert capfd.readouterr() == ("result\n", "")


def test_names_that_the_output_cannot_encode_are_escaped(batch):
    command, out = batch
    done = subprocess.run(
        command.split(), capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and r"\u626b\u63cf_seg.nii.gz" in done.stdout
    assert len(list(out.glob("*_seg.nii.gz"))) == 2


def test_a_log_file_that_is_a_link_or_a_pipe_is_not_written(tmp_path):
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LogFile.NAME).symlink_to(tmp_path / "victim")
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / LogFile.NAME)
    for directory in ("linked", "piped"):
        with LogFile(tmp_path / directory):
            logging.getLogger("kits_unet3d").info("one line")
    assert (tmp_path / "victim").read_text() == "keep"


@pytest.mark.slow
def test_the_bundle_shows_no_warnings_of_libraries(scans):
    """MONAI warns of eval() before the bundle is read; the launch scripts silence that by the environment."""
    (silence,) = re.findall(r"PYTHONWARNINGS-(\S+)}", (ROOT / "scripts" / "env.sh").read_text())
    environment = {**os.environ, "PYTHONWARNINGS": silence}
    done = subprocess.run([sys.executable, *INFERRING], env=environment, check=True, capture_output=True, text=True)
    assert not re.search(r"Warning|nvImageCodec|eval\(\)|as written", done.stdout + done.stderr)
    assert "[2/2]" in done.stdout
