"""The speed of training: hand-worked summaries, and the benchmark as MONAI runs it."""

import json

import pytest
from conftest import ROOT, TINY
from monai.bundle import ConfigWorkflow
from test_training import trainer

from kits_unet3d.pipeline.data import SyntheticIndex
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.output import device_line
from kits_unet3d.pipeline.training import Throughput
from kits_unet3d.pipeline.training.throughput import summarise
from kits_unet3d.transforms import component_boxes


def test_percentiles_and_samples_per_second_are_those_worked_out_by_hand():
    """Steps of 1 to 101 ms: 51 ms on average; the 90th percentile is the 91st of 101 values."""
    summary = summarise([n / 1000 for n in range(101, 0, -1)], samples_per_step=2)
    assert summary["steps"] == 101 and summary["samples_per_step"] == 2
    assert summary["samples_per_second"] == pytest.approx(2 / 0.051)
    assert summary["step_ms"] == pytest.approx({"p50": 51, "p90": 91, "p95": 96, "p99": 100})


def test_steps_of_the_warm_up_are_not_measured(tmp_path):
    run = trainer(epochs=2, batches=3, handlers=[Throughput(resolve("cpu"), 1, 4, tmp_path / "speed.json")])
    run.run()
    report = json.loads((tmp_path / "speed.json").read_text())
    assert (report["steps"], report["warmup_steps"], report["processes"]) == (2, 4, 1)
    assert report["device"]["device"] == "cpu"
    assert report["samples_per_second"] > 0 and list(report["step_ms"]) == ["p50", "p90", "p95", "p99"]
    assert list(report["step_ms"].values()) == sorted(report["step_ms"].values())


def test_a_warm_up_that_leaves_no_step_is_an_error():
    with pytest.raises(UsageError, match=r"of 3 steps the first 3 are warm-up; run more"):
        trainer(epochs=1, batches=3, handlers=[Throughput(resolve("cpu"), 1, 3)]).run()
    with pytest.raises(ValueError, match="must not be negative"):
        Throughput(resolve("cpu"), 1, -1)


def test_synthetic_cases_look_like_prepared_ones_and_share_their_memory():
    cases = SyntheticIndex((16, 16, 32), cases=5, volumes=2).data_list("training")
    assert [case["case_id"] for case in cases] == [f"training_{n:05d}" for n in range(5)]
    assert cases[0]["image"] is cases[4]["image"] and cases[0]["image"] is not cases[1]["image"]
    assert cases[0]["image"].shape == cases[0]["label"].shape == (1, 16, 16, 32)
    assert (cases[0]["image"].dtype, cases[0]["label"].dtype) == ("float32", "uint8")
    assert cases[0]["boxes"] == component_boxes(cases[0]["label"])
    # a kidney of half the volume along each axis with a tumour of a quarter in it
    assert cases[0]["boxes"] == {1: [((4, 12), (4, 12), (8, 24))], 2: [((6, 10), (6, 10), (12, 20))]}


def benchmark(directory, **knobs):
    path = directory / "knobs.json"
    path.write_text(
        json.dumps({**TINY, "channels": [4, 8, 8], "workers": 0, "device_name": "cpu", "output_dir": str(directory)})
    )
    configs = [str(ROOT / "bundle" / "configs" / name) for name in ("train.json", "benchmark.json")]
    workflow = ConfigWorkflow(config_file=[*configs, str(path)], logging_file=False, workflow_type="train", **knobs)
    workflow.initialize()
    workflow.run()
    report = json.loads((directory / "benchmark.json").read_text())
    assert sorted(path.name for path in directory.iterdir()) == ["benchmark.json", "knobs.json"]
    return report


def test_the_benchmark_needs_no_data_and_logs_the_device(tmp_path, caplog):
    caplog.set_level("INFO", "kits_unet3d")
    report = benchmark(tmp_path, benchmark_steps=3, warmup_steps=1, dataset_dir=str(tmp_path / "none"))
    assert (report["steps"], report["warmup_steps"], report["samples_per_step"]) == (3, 1, 2)
    assert device_line(report["device"]) in caplog.messages


def test_the_benchmark_reads_prepared_data_over_and_over(tmp_path, preprocessed_phantoms):
    """Two batches of two are all there is; five steps are asked for."""
    report = benchmark(
        tmp_path, benchmark_steps=4, warmup_steps=1, synthetic=False, dataset_dir=str(preprocessed_phantoms)
    )
    assert report["steps"] == 4


def test_the_benchmark_without_synthetic_data_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark(tmp_path, synthetic=False, dataset_dir=str(tmp_path / "none"))
    assert stopped.value.code == 2
    assert "contains no preprocessed data" in capsys.readouterr().err
