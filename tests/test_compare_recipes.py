"""The comparison's script, from label maps to tables, with seconds of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine


def run(*arguments, script="compare_recipes", **settings):
    environment = {**os.environ, "PYTHON": sys.executable, **settings}
    return subprocess.run(
        ["bash", f"scripts/{script}.sh", *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_comparison_and_ablation_write_summaries_and_keep_finished_runs(raw_phantoms, tmp_path):
    pytest.importorskip("matplotlib")
    settings = {"SPACING_MM": "[8.0,6.0,6.0]", "ROI": "[48,32,32]", "EVALUATION": "case_00000 case_00003"}
    settings["MLPERF_LEARNING_RATE"] = "0.01"  # so few steps of 0.8 end in numbers that are none
    done = run(raw_phantoms, tmp_path, "0.05", "1", "mlperf", **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    split = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert split["evaluation"] == ["case_00000", "case_00003"]
    # three bodies around each of the others, and one around what KiTS19's list calls training but is scored here
    assert split["training"] == [f"case_{body}000{case}" for body in (0, 1, 2) for case in (1, 2, 4)]
    trained = tmp_path / "mlperf" / "seed_1"
    seconds, loss = np.loadtxt(trained / "curves" / "loss.csv", delimiter=",", skiprows=1, ndmin=2).T
    assert (np.diff(seconds) > 0).all() and np.isfinite(loss).all()
    assert seconds[-1] >= 3 and (seconds[:-1] < 3).all()  # the first step that ends at or past 0.05 minutes is the last
    scores = json.loads((trained / "plain.json").read_text())
    assert sorted(scores["cases"]) == split["evaluation"]
    assert json.loads((tmp_path / "summary.json").read_text())["means"].keys() == {"mlperf plain"}
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"loss.png", "cases.png", "mlperf_best.png", "mlperf_worst.png"}
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    again = run(raw_phantoms, tmp_path, "0.05", "1", "mlperf", **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    done = run(raw_phantoms, tmp_path, "0.05", "1", "no_average", script="ablation", FOLDS="3", **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    fold = json.loads((tmp_path / "fold_0" / "summary.json").read_text())
    assert fold["means"].keys() == {"dynunet_ds plain", "no_average plain"} and len(fold["differences"]) == 1
    assert fold["speed"].keys() == {"dynunet_ds", "no_average"}
    assert (tmp_path / "cross_validation" / "folds" / "seed_1" / "fold_0" / "result.json").is_file()
    longer = run(raw_phantoms, tmp_path, "0.1", "1", "no_average", script="ablation", FOLDS="3", **settings)
    assert longer.returncode == 2 and "was made with MINUTES=0.05" in longer.stderr
    scores = json.loads((tmp_path / "fold_0" / "no_average" / "seed_1" / "plain.json").read_text())
    assert list(scores["cases"]) == ["case_00001"]  # one of the label map's three bodies


@pytest.mark.slow
def test_evaluation_cases_use_the_postprocessing_chosen_on_the_folds(raw_phantoms, tmp_path):
    settings = {"SPACING_MM": "[8.0,6.0,6.0]", "ROI": "[48,32,32]", "EVALUATION": "case_00000 case_00003", "FOLDS": "2"}
    done = run(raw_phantoms, tmp_path, "0.05", "4", script="cross_validation", **settings)
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
    again = run(raw_phantoms, tmp_path, "0.05", "4", script="cross_validation", **settings)
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
    done = run(tiny_checkpoint, scan, tmp_path / "labels.nii.gz", tmp_path / "out", script="real_ct")
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["cases"]["scan"]
    assert 0 <= scores["kidney_dice"] <= 1 and not any(name.startswith("tumour") for name in scores)
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    ground_truth = np.asanyarray(nib.load(tmp_path / "out" / "ground_truth" / "scan.nii.gz").dataobj)
    np.testing.assert_array_equal(ground_truth, values == 3)


@pytest.mark.parametrize("script", ["compare_recipes", "ablation", "cross_validation", "real_ct"])
def test_without_arguments_a_script_says_how_it_is_called(script):
    done = run(script=script)
    assert done.returncode == 2 and f"bash scripts/{script}.sh" in done.stderr


@pytest.mark.parametrize(
    ("script", "variants", "names", "message"),
    [
        ("compare_recipes", "tta", "mlperf unet", "unknown recipe unet"),
        ("compare_recipes", "mirrored", "mlperf", "unknown variant mirrored"),
        ("ablation", "tta", "no_average no_region", "unknown part no_region; known are no_deep_supervision"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_made(tmp_path, script, variants, names, message):
    done = run(tmp_path, tmp_path / "out", "1", "1", names, script=script, VARIANTS=variants)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.glob("out/*"))


def compared(name: str):
    """A module of scripts/compare, which is no package."""
    sys.path.insert(0, str(ROOT / "scripts" / "compare"))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


def test_warmup_is_the_references_share_of_the_time(monkeypatch):
    warmup = compared("warmup")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    now = iter([100.0, 100.0, 100 + 300 * warmup.SHARE, 100 + 600 * warmup.SHARE, 699.0])
    monkeypatch.setattr(warmup.time, "monotonic", lambda: next(now))
    rates, engine = [], Engine(lambda engine, batch: rates.append(optimizer.param_groups[0]["lr"]))
    warmup.WarmUp(optimizer, minutes=10, learning_rate=0.8).attach(engine)
    engine.run(range(2), max_epochs=2)
    assert rates == pytest.approx([1e-4, (0.8 + 1e-4) / 2, 0.8, 0.8])


def test_label_maps_with_thin_slices_are_not_ordinary(tmp_path):
    for number, thickness in ((1, 0.5), (2, 1.0), (3, 5.0)):
        directory = tmp_path / f"case_{number:05d}"
        directory.mkdir()
        image = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([thickness, 0.8, 0.8, 1]))
        nib.save(image, directory / "segmentation.nii.gz")
    assert list(compared("real_cases").ordinary(tmp_path)) == ["case_00002", "case_00003"]


def test_of_the_label_maps_at_hand_22_train_and_8_are_scored():
    labels = Path(ROOT.parent / "shared" / "data" / "kits19_labels")
    if not labels.is_dir():
        pytest.skip("needs data/kits19_labels in a directory `shared` beside the repository")
    real_cases = compared("real_cases")
    files = real_cases.ordinary(labels)
    assert set(real_cases.EVALUATION) <= set(files) and len(files) - len(real_cases.EVALUATION) == 22
