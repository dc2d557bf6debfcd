"""Batches that are interrupted, killed, shared out, or meet another."""

import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from test_batch import cases, model, run, scan_file, scans

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.inference.batch import PATIENCE, only_run
from kits_unet3d.pipeline.report.summary import Report
from kits_unet3d.pipeline.runtime.files import write_json

__all__ = ["model", "scans"]


def test_parts_of_a_killed_run_hold_what_each_process_did(tmp_path):
    """The second process took over an old failure, which the first has mended since."""
    old, new = {"outcome": "failed", "scan": "a", "files": {}}, {"outcome": "done", "scan": "a", "files": {}}
    write_json(tmp_path / "summary.json", {"cases": {"a": old}})
    for part, name in enumerate("ab"):
        report = Report(tmp_path)
        report.cases, report.part = {"a": old}, part
        report.add(name, new)
    report = Report(tmp_path)
    report.take_over({})
    assert report.cases == {"a": new, "b": new} == cases(tmp_path)
    assert not list(tmp_path.glob(".report-*"))


def test_two_runs_into_one_directory_are_kept_apart(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    with only_run(out):
        assert run(scans, out, model) == 2 and "another run is writing there" in capsys.readouterr().err
    (out / ".lock").touch()  # of a run that was killed
    assert run(scans, out, model) == 0 and not list(out.glob(".*"))


def test_an_interrupt_at_any_instruction_leaves_no_lock(tmp_path):
    """Signals arrive between two instructions; the tracer raises at each of those that lock the directory."""
    started, interrupted = False, 0
    while not started:
        left = interrupted + 1

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_name not in ("only_run", "_lock"):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and (left := left - 1) == 0:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with only_run(tmp_path / "out"):
                sys.settrace(before)
                started = True
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        assert not list((tmp_path / "out").glob(".*")), interrupted
    assert interrupted > 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("masks", [2, pytest.param(0, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)])
def test_ended_at_any_moment_nothing_is_half_written_and_a_rerun_completes(tmp_path, model, masks, number, code):
    for index in range(16):
        scan_file(tmp_path / "in" / f"scan{index:02d}.nii.gz", index)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "predict", str(tmp_path / "in"), "-o", str(out)]
    command += ["--checkpoint", str(model), "--device", "cpu", "--no-html-report"]
    for _ in range(5):  # on a busy machine all may be done before the signal comes
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while (not out.exists() or len(list(out.glob("[!.]*_seg.nii.gz"))) < masks) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == code
    for path in out.glob("[!.]*_seg.nii.gz"):
        assert np.asarray(nib.load(path).dataobj).shape == (16, 16, 12)
    assert not (out / "summary.json").exists() or len(cases(out)) < 16
    if code == 130:
        assert not list(out.glob(".*"))
    assert main(command[3:]) == 0
    assert len(list(out.glob("[!.]*_seg.nii.gz"))) == 16 and len(cases(out)) == 16
    assert not list(out.glob(".*"))


def under_torchrun(*command):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_processes_share_a_batch_and_make_one_report(tmp_path, scans, model):
    (scans / "bad.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    command = ["-m", "kits_unet3d.pipeline.cli", "predict", scans, "-o", out, "--checkpoint", model, "--device", "cpu"]
    done = under_torchrun(*command)
    assert done.returncode == 1 and set(cases(out)) == {"bad", "scan0", "scan1", "scan2", "scan3"}
    assert len(list(out.glob("*_seg.nii.gz"))) == 4 and not list(out.glob(".*"))
    # What is left is shared out, and not what there was: the first process would have had both.
    for name in ("scan0", "scan2"):
        (out / f"{name}_seg.nii.gz").unlink()
    (scans / "bad.nii.gz").unlink()
    done = under_torchrun(*command)
    assert done.returncode == 0 and done.stdout.count("[1/1]") == 2 and "2 of 4 are finished" in done.stdout


@pytest.mark.slow
def test_processes_wait_for_the_last_one_for_days(tmp_path, scans, model):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        "from kits_unet3d.pipeline.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "group = dist.distributed_c10d._get_default_group()\n"
        "print('patience', group._get_backend(torch.device('cpu')).options._timeout.days, flush=True)\n"
        "sys.exit(code)\n"
    )
    done = under_torchrun(
        script, "predict", scans, "-o", tmp_path / "out", "--checkpoint", model, "--device", "cpu", "--no-html-report"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"patience {PATIENCE.days}") == 2
