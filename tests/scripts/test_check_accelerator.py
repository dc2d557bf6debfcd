"""The script for an owner of a card, on the CPU and on a simulated card."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from simulation import simulated, why_not

pytestmark = pytest.mark.slow
SIMULATED = pytest.mark.skipif(bool(why_not()), reason=f"no simulated mlu: {why_not()}")
MEASURED = ("golden of network", "golden of windows", "times")
BY_PRECISION = {f"{what}, {precision}" for what in MEASURED for precision in ("fp32", "fp16", "bf16")}


def check(directory, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, "SMALL": "1", "STEPS": "4", **variables}
    done = subprocess.run(
        ["bash", "scripts/check_accelerator.sh", str(directory)], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=580,
    )  # fmt: skip
    report = directory / "report.json"
    return done, json.loads(report.read_text()) if report.is_file() else None


def test_a_cpu_passes_every_part(tmp_path):
    done, report = check(tmp_path, DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    verdicts = {row["part"]: row["verdict"] for row in report["rows"]}
    assert set(verdicts.values()) == {"ok"}
    assert set(verdicts) == {"self-check", *BY_PRECISION, "training with a restart", "prediction"}
    details = {row["part"]: row["detail"] for row in report["rows"]}
    assert "a resumed run's weights differ by 0.0e+00" in details["training with a restart"]
    assert "100.000% of the voxels as on a CPU" in details["prediction"]
    assert report["small"] and report["device"]["device"] == "cpu" and len(report["checks"]) == 6
    table = (tmp_path / "report.md").read_text()
    assert all(f"| {part} | ok |" in table for part in verdicts)


@SIMULATED
def test_a_simulated_card_passes_and_one_that_computes_wrongly_fails(tmp_path):
    card = {**simulated(), "DEVICE": "mlu", "SIMULATED_MLU_NAME": "MLU370-X8"}
    done, report = check(tmp_path / "sound", **card)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 of 10 parts failed, 0 were left out" in done.stdout
    assert report["device"]["name"] == "MLU370-X8" and report["card"]["memory"] == "16.0 GiB"
    done, report = check(tmp_path / "wrong", **card, SIMULATED_MLU_WRONG="aten::convolution", LIMIT="60")
    assert done.returncode == 1
    verdicts = {row["part"]: row["verdict"] for row in report["rows"]}
    assert verdicts["golden of network, fp32"] == verdicts["self-check"] == "FAILED"


def test_a_missing_card_is_one_line(tmp_path):
    done, report = check(tmp_path, DEVICE="xpu:7")
    assert done.returncode == 2 and report is None
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
