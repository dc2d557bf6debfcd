"""The adapter's own tests and the owner's self-check on a simulated mlu (tests/simulated_mlu)."""

from simulation import MARKS, SIMULATION, device_check, run

pytestmark = MARKS


def test_the_adapter_works_on_the_device():
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", SIMULATION / "device_checks.py")
    assert done.returncode == 0, done.stdout[-5000:]
    assert " skipped" not in done.stdout


def test_the_self_check_finds_two_sound_cards(tiny_config):
    done = device_check(tiny_config)("--accelerators", 2, MLU_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for line in ("simulated MLU", "differs from the CPU's by 0.0e+00", "by cpu:gloo,mlu:cncl", "all checks passed"):
        assert done.stdout.count(line) == 1, line


def test_the_self_check_reports_cpu_fallbacks_and_wrong_results(tiny_config):
    missing = {"SIMULATED_MLU_MISSING": "aten::cat.out,aten::native_batch_norm,aten::relu_"}
    done = device_check(tiny_config)(**missing, SIMULATED_MLU_WRONG="aten::convolution")
    assert done.returncode == 1
    lacking = ("aten.cat.default", "aten.native_batch_norm.default", "aten.relu_.default", "aten.stack.default")
    assert f"would run on the CPU: {', '.join(lacking)}\n" in done.stdout
    for check in ("native operations", "training step", "window", "bf16", "step time"):
        assert f"FAILED {check}" in done.stdout
    assert "5 of 5 checks failed" in done.stdout
