"""The comparison's script, from label maps to tables, with seconds of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT

#: A data set of minutes instead of hours.
SMALL = (
    "--set", "data.spacing_mm=[8.0,6.0,6.0]", "data.roi_size=[48,32,32]", "data.evaluation=[case_00000,case_00003]",
)  # fmt: skip


def run(plan, *arguments):
    command = [sys.executable, "scripts/compare", f"scripts/compare/{plan}.yaml", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_comparison_and_ablation_write_summaries_and_keep_finished_runs(raw_phantoms, tmp_path):
    pytest.importorskip("matplotlib")
    # so few steps of 0.8 end in numbers that are none
    settings = ("--seeds", 1, "--recipes", "mlperf", *SMALL, "recipes.mlperf.overlay.learning_rate=0.01")
    done = run("recipes", raw_phantoms, tmp_path, "--minutes", 0.05, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    split = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert split["evaluation"] == ["case_00000", "case_00003"]
    # three bodies around each of the others, and one around what KiTS19's list calls training but is scored here
    assert split["training"] == [f"case_{body}000{case}" for body in (0, 1, 2) for case in (1, 2, 4)]
    trained = tmp_path / "mlperf" / "seed_1"
    seconds, loss = np.loadtxt(trained / "curves" / "loss.csv", delimiter=",", skiprows=1, ndmin=2).T
    assert (np.diff(seconds) > 0).all() and np.isfinite(loss).all()
    # The first step that ends at or past 0.05 minutes is the last; the trainer's own clock starts milliseconds earlier.
    assert seconds[-1] > 2.95 and (seconds[:-1] < 3).all()
    scores = json.loads((trained / "plain.json").read_text())
    assert sorted(scores["cases"]) == split["evaluation"]
    assert json.loads((tmp_path / "summary.json").read_text())["means"].keys() == {"mlperf plain"}
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"loss.png", "cases.png", "mlperf_best.png", "mlperf_worst.png"}
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    again = run("recipes", raw_phantoms, tmp_path, "--minutes", 0.05, *settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    settings = ("--recipes", "no_average", *SMALL, "folds=3")
    done = run("ablation", raw_phantoms, tmp_path, "--minutes", 0.05, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    fold = json.loads((tmp_path / "fold_0" / "summary.json").read_text())
    assert list(fold["means"]) == ["dynunet_ds plain", "no_average plain"] and len(fold["differences"]) == 1
    assert fold["speed"].keys() == {"dynunet_ds", "no_average"}
    assert (tmp_path / "cross_validation" / "folds" / "seed_1" / "fold_0" / "result.json").is_file()
    longer = run("ablation", raw_phantoms, tmp_path, "--minutes", 0.1, *settings)
    assert longer.returncode == 2 and "was made with minutes 0.05, not with minutes 0.1;" in longer.stderr
    scores = json.loads((tmp_path / "fold_0" / "no_average" / "seed_1" / "plain.json").read_text())
    assert list(scores["cases"]) == ["case_00001"]  # one of the label map's three bodies


@pytest.mark.slow
def test_evaluation_cases_use_the_postprocessing_chosen_on_the_folds(raw_phantoms, tmp_path):
    arguments = (raw_phantoms, tmp_path, "--minutes", 0.05, "--seeds", 4, *SMALL, "folds=2")
    done = run("cross_validation", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    place = tmp_path / "cross_validation" / "folds" / "seed_4"
    folds = [json.loads((place / f"fold_{fold}" / "result.json").read_text()) for fold in (0, 1)]
    held_out = [set(fold["evaluation_cases"]) for fold in folds]
    assert held_out[0] | held_out[1] == {f"case_{body}000{case}" for body in (0, 1, 2) for case in (1, 2, 4)}
    assert not held_out[0] & held_out[1]
    assert all(
        np.loadtxt(place / f"fold_{fold}" / "eval" / "loss.csv", delimiter=",", skiprows=1).size for fold in (0, 1)
    )
    choice = json.loads((place / "choice" / "folds.json").read_text())
    assert choice["folds"] == 2 and choice["missing"] == [] and len(choice["tried"]) == 16
    for variant in ("plain", "postprocessed"):
        assert sorted(json.loads((place / f"{variant}.json").read_text())["cases"]) == ["case_00000", "case_00003"]
    held_out_scores = tmp_path / "cross_validation" / "held_out" / "dynunet_ds" / "seed_4"
    for variant in ("plain", "reference_windows"):  # one of each label map's three bodies
        cases = json.loads((held_out_scores / f"{variant}.json").read_text())["cases"]
        assert sorted(cases) == ["case_00001", "case_00002", "case_00004"]
    for directory, names in {"": ("folds plain", "folds postprocessed"),
                          "held_out": ("dynunet_ds plain", "dynunet_ds reference_windows")}.items():  # fmt: skip
        summary = json.loads((tmp_path / "cross_validation" / directory / "summary.json").read_text())
        assert tuple(summary["means"]) == names
    before = (place / "fold_0" / "result.json").stat().st_mtime_ns
    again = run("cross_validation", *arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == (place / "fold_0" / "result.json").stat().st_mtime_ns


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_real_scan_is_scored_by_its_kidneys(raw_phantoms, tiny_checkpoint, tmp_path, ending):
    labels = nib.load(raw_phantoms / "case_00000" / "segmentation.nii.gz")
    values = np.where(np.asanyarray(labels.dataobj) > 0, 3, 5).astype(np.int32)  # as TotalSegmentator numbers them
    nib.save(nib.Nifti1Image(values, labels.affine), tmp_path / "labels.nii.gz")
    scan = tmp_path / f"scan{ending}"
    nib.save(nib.load(raw_phantoms / "case_00000" / "imaging.nii.gz"), scan)
    done = subprocess.run(
        ["bash", "scripts/real_ct.sh", tiny_checkpoint, scan, tmp_path / "labels.nii.gz", tmp_path / "out"],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["cases"]["scan"]
    assert 0 <= scores["kidney_dice"] <= 1 and not any(name.startswith("tumour") for name in scores)
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    ground_truth = np.asanyarray(nib.load(tmp_path / "out" / "ground_truth" / "scan.nii.gz").dataobj)
    np.testing.assert_array_equal(ground_truth, values == 3)


@pytest.mark.parametrize("command", [[sys.executable, "scripts/compare"], ["bash", "scripts/real_ct.sh"]])
def test_without_arguments_the_usage_is_printed(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and command[1] in done.stderr


@pytest.mark.parametrize(
    ("out", "arguments", "message"),
    [
        ("out", ("--recipes", "mlperf", "unet"), "error: unknown recipe unet; known are mlperf, dynunet_ds, nnunet"),
        ("out", ("--set", "data.evaluation=[case_00041]"), "has no case_00041; give the plan's label maps"),
        ("my out", (), "the name of OUT must not contain spaces"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path, out, arguments, message):
    done = run("recipes", tmp_path, tmp_path / out, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def real_cases(monkeypatch):
    """The module of scripts/compare, which is no package."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "compare")
    import real_cases

    return real_cases


def test_label_maps_with_thin_slices_are_not_ordinary(real_cases, tmp_path):
    for number, thickness in ((1, 0.5), (2, 1.0), (3, 5.0)):
        directory = tmp_path / f"case_{number:05d}"
        directory.mkdir()
        image = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([thickness, 0.8, 0.8, 1]))
        nib.save(image, directory / "segmentation.nii.gz")
    assert list(real_cases.ordinary(tmp_path)) == ["case_00002", "case_00003"]


def test_of_the_label_maps_at_hand_22_train_and_8_are_scored(real_cases):
    labels = Path(ROOT.parent / "shared" / "data" / "kits19_labels")
    if not labels.is_dir():
        pytest.skip("needs data/kits19_labels in a directory `shared` beside the repository")
    files = real_cases.ordinary(labels)
    assert set(real_cases.EVALUATION) <= set(files) and len(files) - len(real_cases.EVALUATION) == 22
