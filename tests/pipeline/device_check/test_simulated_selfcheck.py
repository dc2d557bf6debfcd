"""The adapter's own tests and the owner's self-check on a simulated mlu (tests/simulated_mlu)."""

import json

import pytest
from simulation import REAL, SIMULATION, device_check, run, why_not

pytestmark = pytest.mark.slow
simulated = pytest.mark.skipif(bool(why_not()), reason=f"no simulated mlu: {why_not()}")


@pytest.mark.skipif(REAL, reason="a real torch_mlu is installed")
def test_the_adapter_works_on_the_device():
    """On an old torch, the part of it that needs no tensors."""
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", SIMULATION / "device_checks.py")
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout and (" skipped" in done.stdout) == bool(why_not())


@simulated
def test_an_mlu370_is_described_with_the_versions_known_for_it(tiny_config, tmp_path):
    (tmp_path / "version.txt").write_text("Neuware Version 3.15.11\n")
    (tmp_path / "cnmon").write_text("#!/bin/sh\necho '    Product Name : MLU370-X8'\necho '    Driver : v5.10.31'\n")
    (tmp_path / "cnmon").chmod(0o755)
    report = tmp_path / "reports" / "card.json"
    done = device_check(tiny_config)(
        "--report", report, SIMULATED_MLU_NAME="MLU370-X8", NEUWARE_HOME=str(tmp_path), MLU_VISIBLE_DEVICES="0,1",
        PATH=f"{tmp_path}:/usr/bin:/bin",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    written = json.loads(report.read_text())
    assert written["failed"] == 0 and written["device"]["name"] == "MLU370-X8" and written["device"]["bf16"] is False
    card = written["card"]
    assert card["driver"] == "5.10.31" and card["libraries"] == "Neuware 3.15.11" and card["memory"] == "16.0 GiB"
    assert card["link"] == "direct between 2 of 2 pairs of accelerators"
    assert card["torch and its package"].startswith("NOT known for MLU370-X8: torch_mlu 0.0.0")
    assert "torch_mlu 1.22 to 1.25 with torch 2.1 or 2.3 or 2.4" in card["torch and its package"]
    assert "`compiled` has no effect" in done.stdout and "torch's compiler fails on mlu:0" in done.stdout


@simulated
def test_the_self_check_finds_two_sound_cards(tiny_config):
    done = device_check(tiny_config)("--accelerators", 2, MLU_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    name = f"{'name':<25} simulated MLU"
    for line in (name, "differs from the CPU's by 0.0e+00", "by cpu:gloo,mlu:cncl", "all checks passed"):
        assert done.stdout.count(line) == 1, line


@simulated
def test_the_self_check_reports_cpu_fallbacks_and_wrong_results(tiny_config):
    missing = {"SIMULATED_MLU_MISSING": "aten::cat.out,aten::native_batch_norm,aten::relu_"}
    done = device_check(tiny_config)(**missing, SIMULATED_MLU_WRONG="aten::convolution")
    assert done.returncode == 1
    lacking = ("aten.cat.default", "aten.native_batch_norm.default", "aten.relu_.default", "aten.stack.default")
    assert f"would run on the CPU: {', '.join(lacking)}\n" in done.stdout
    for check in ("native operations", "training step", "window", "bf16", "step time"):
        assert f"FAILED {check}" in done.stdout
    assert "5 of 6 checks failed" in done.stdout
