"""The benchmark: hand-worked statistics, and that all of it runs at sizes that take seconds."""

import json
import os
from functools import partial

import numpy as np
import pytest
from conftest import ROOT

from kits_unet3d.pipeline.benchmark import Row, alternating, linearity
from kits_unet3d.pipeline.benchmark.measure import aside, rows
from kits_unet3d.pipeline.benchmark.report import table
from kits_unet3d.pipeline.benchmark.scans import patient
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.device import resolve


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_contenders_take_turns_after_a_round_that_is_not_counted():
    order = []
    seconds = alternating({"plain": lambda: order.append("p"), "ours": lambda: order.append("o")}, 2)
    assert "".join(order) == "popopo" and [len(values) for values in seconds.values()] == [2, 2]
    with pytest.raises(ValueError, match="at least 1"):
        alternating({}, 0)


def test_a_row_compares_medians_with_the_plain_path():
    plain, ours = rows("step", {"plain": [4.0, 8.0, 100.0], "ours": [2.0, 1.0, 3.0]}, {"ours": 0.5})
    assert (plain.value, plain.ratio) == (8.0, None)
    assert (ours.value, ours.ratio, ours.goal) == (2.0, 0.25, 0.5)
    assert table([ours]).splitlines()[-1] == "| step | ours | 2 s | 0.250 | ≤ 0.5 |"
    assert Row("size", "ours", 3).work == {}


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


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("windows", "memory")]  # a compiler, many processes


@pytest.mark.parametrize("kind", ["loader", "prepare", "train-step", "case", *SLOW])
def test_each_kind_runs_at_tiny_sizes(tmp_path, kind, model_file, raw_phantoms):
    arguments = ["benchmark", kind, "--quick", "--widths", "2", "4", "--out", str(tmp_path / "out")]
    if kind == "case":
        scans = tmp_path / "scans"
        scans.mkdir()
        (scans / "case_00000.nii.gz").symlink_to(raw_phantoms / "case_00000" / "imaging.nii.gz")
        arguments += ["--checkpoint", str(model_file), "--scans", str(scans), "--labels", str(raw_phantoms)]
    assert main([*arguments, "--config", str(ROOT / "bundle" / "configs" / "train.json")]) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["machine"]["versions"]["torch"] and report["machine"]["cores"]
    assert report["machine"]["device"] == resolve("cpu").describe()
    assert any(row["how"] == "plain" for row in report["rows"])
    assert all(row["value"] >= 0 for row in report["rows"])
    assert (tmp_path / "out" / "benchmark.png").is_file() == (kind == "memory")
    if kind == "case":
        (fp32,) = (r for r in report["rows"] if (r["what"], r["how"]) == ("kidney Dice with plain", "fp32, reference"))
        assert 0 <= fp32["value"] <= 1
