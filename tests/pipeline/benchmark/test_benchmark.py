"""The benchmark: hand-worked statistics, and that all of it runs at sizes that take seconds."""

import json
import os
import sys
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import ROOT

from kits_unet3d.pipeline.benchmark import KINDS, Row, Setting, alternating, linearity
from kits_unet3d.pipeline.benchmark import peak_memory as memory
from kits_unet3d.pipeline.benchmark.measure import aside, in_blocks, rows
from kits_unet3d.pipeline.benchmark.report import table
from kits_unet3d.pipeline.benchmark.scans import patient
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.device import resolve


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_contenders_take_turns_after_a_round_that_is_not_counted():
    order = []
    seconds = alternating({"baseline": lambda: order.append("p"), "ours": lambda: order.append("o")}, 2)
    assert "".join(order) == "popopo" and [len(values) for values in seconds.values()] == [2, 2]
    with pytest.raises(ValueError, match="at least 1"):
        alternating({}, 0)


def test_blocks_begin_anew_in_turn_and_their_first_steps_are_not_counted():
    order, living = [], []

    def begin(name):
        def block():
            order.append(name.upper())
            step = partial(order.append, name)
            living.append(weakref.ref(step))
            assert sum(reference() is not None for reference in living) == 1  # none lives on in another's block
            return step

        return block

    seconds = in_blocks({"p": begin("p"), "o": begin("o")}, 4, length=5, dropped=2)
    assert "".join(order) == "PpppppOooooo" * 2
    assert [len(values) for values in seconds.values()] == [6, 6]
    with pytest.raises(ValueError, match="no step would be measured"):
        in_blocks({}, 4, length=2, dropped=2)


def test_a_row_compares_medians_with_the_baseline():
    baseline, ours = rows("step", {"baseline": [4.0, 8.0, 100.0], "ours": [2.0, 1.0, 3.0]}, {"ours": 0.5})
    assert (baseline.value, baseline.ratio) == (8.0, None)
    assert (ours.value, ours.ratio, ours.goal) == (2.0, 0.25, 0.5)
    assert table([ours]).splitlines()[-1] == "| step | ours | 2 s | 0.250 | ≤ 0.5 |"
    assert Row("size", "ours", 3).work == {}


def test_a_goal_that_is_missed_says_so():
    slow, near, far, lost = (
        Row("step", "ours", 2.0, ratio=0.51, goal=0.5),
        Row("Dice", "ours", 0.995, "", at_least=0.995),
        Row("Dice", "ours", 0.9949, "", at_least=0.995),
        Row("Dice", "ours", float("nan"), "", at_least=0.995),
    )
    assert table([slow]).splitlines()[-1] == "| step | ours | 2 s | 0.510 | ≤ 0.5, missed |"
    assert table([near]).splitlines()[-1] == "| Dice | ours | 0.995 |  | ≥ 0.995 |"
    assert table([far]).splitlines()[-1] == "| Dice | ours | 0.9949 |  | ≥ 0.995, missed |"
    assert lost.missed and not Row("step", "baseline", 2.0, goal=0.5).missed


def test_without_matplotlib_the_plot_is_left_out_and_that_is_said_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sizes = [Row("predict by size", "64 slices", 2.0, work={"voxels": 5.0})]
    monkeypatch.setitem(KINDS, "memory", lambda setting: iter(sizes))
    arguments = ["benchmark", "memory", "--quick", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--config", str(ROOT / "bundle" / "configs" / "train.json")]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("benchmark.png was not written: matplotlib is not installed; `pip install")
    assert others == ["| predict by size | 64 slices | 2 s |  |  |"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["benchmark.json", "benchmark.md"]


def test_what_grows_in_proportion_has_an_r2_of_one():
    assert linearity([1, 2, 3], [5, 7, 9]) == pytest.approx(1)
    assert linearity([1, 2, 3], [1, 0, 1]) == pytest.approx(0)
    assert linearity([1, 2, 3], [4, 4, 4]) == 1  # a level line is one, too
    with pytest.raises(ValueError, match="at least 3"):
        linearity([1, 2], [1, 2])


def test_the_made_up_patient_has_air_around_and_bright_kidneys_within():
    hu, label = patient((20, 64, 64))
    assert hu.dtype == np.int16 and label.dtype == np.uint8 and set(np.unique(label)) == {0, 1, 2}
    assert (hu[:, :8] < -900).all() and (hu[label > 0] > 240).all() and (hu[label == 0] < 130).all()


def test_a_contender_aside_changes_nothing_here_and_tells_when_it_fails():
    with aside(os.putenv, "A_NAME", "a value") as failing, pytest.raises(RuntimeError, match="putenv failed"):
        failing()  # None cannot be run
    with aside(partial, os.chdir, "/") as run:
        run()
        run()
    assert os.getcwd() != "/"


def test_sizes_are_measured_in_turn_after_a_run_that_is_not_counted(tmp_path, monkeypatch):
    order = []

    def run(function, *arguments):
        if function.__name__ != "_predict":
            return 1.0, 100.0
        part, count = int(arguments[2].parent.name[-1]), arguments[3]
        order.append((part, count))
        # The first of all compiles; one of the smallest size's three is disturbed.
        return part * count * (100.0 if len(order) in (1, 6) else 1.0), 1000.0 + part

    monkeypatch.setattr(memory, "in_own_process", run)
    setting = replace(Setting.quick({}, {}, tmp_path), slow=3)
    found = {(row.what, row.how): row for row in memory.memory(setting)}
    assert order == [(1, 1), *[(part, 1) for part in (1, 2, 3, 4)] * 3, *[(1, 2)] * 3, *[(1, 4)] * 3]
    smallest = found["predict by size", "32 slices"]
    assert (smallest.value, smallest.values) == (1.0, [1.0, 100.0, 1.0])
    assert found["predict by count", "1 scans"].values == smallest.values
    r2 = found["predict by size", "R² of time and voxels"]
    assert r2.value == pytest.approx(1) and r2.at_least == 0.98


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("windows", "memory")]  # a compiler, many processes


@pytest.mark.parametrize("kind", ["loader", "prepare", "train-step", "case", *SLOW])
def test_each_kind_runs_at_tiny_sizes(tmp_path, kind, model_file, raw_phantoms):
    arguments = ["benchmark", kind, "--quick", "--channels", "2", "4", "-o", str(tmp_path / "out")]
    if kind == "case":
        scans = tmp_path / "scans"
        scans.mkdir()
        (scans / "case_00000.nii.gz").symlink_to(raw_phantoms / "case_00000" / "imaging.nii.gz")
        arguments += ["--checkpoint", str(model_file), "--scans", str(scans), "--labels", str(raw_phantoms)]
    assert main([*arguments, "--config", str(ROOT / "bundle" / "configs" / "train.json")]) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["machine"]["versions"]["torch"] and report["machine"]["cores"]
    assert report["machine"]["device"] == resolve("cpu").describe()
    assert any(row["how"] == "baseline" for row in report["rows"])
    assert all(row["value"] >= 0 for row in report["rows"])
    assert (tmp_path / "out" / "benchmark.png").is_file() == (kind == "memory")
    if kind == "case":
        (fp32,) = (
            r for r in report["rows"] if (r["what"], r["how"]) == ("kidney Dice with baseline", "fp32, reference")
        )
        assert 0 <= fp32["value"] <= 1 and fp32["at_least"] is None
        (same,) = (
            r for r in report["rows"] if (r["what"], r["how"]) == ("kidney Dice with baseline", "fp32, body skip-air")
        )
        assert same["value"] > 0.999  # the baseline's own mask, of the same grid and windows
        goals = {(r["what"], r["how"]): r["at_least"] for r in report["rows"] if r["at_least"] is not None}
        (ground_truth,) = (
            r for r in report["rows"] if (r["what"], r["how"]) == ("tumour Dice with ground truth", "baseline")
        )
        assert goals["kidney Dice with baseline", "fp32, body skip-air"] == 0.995
        assert goals["tumour Dice with ground truth", "bf16, body skip-air"] == pytest.approx(
            ground_truth["value"] - 0.005
        )
        assert len(goals) == 8  # two precisions, two parts, with baseline and with ground truth
