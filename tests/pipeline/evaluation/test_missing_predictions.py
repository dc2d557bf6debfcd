"""Which masks and ground truths are compared: every ground truth counts, whatever it is called and wherever it lies."""

import csv
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.evaluation.directories import find_masks, score_directories
from kits_unet3d.pipeline.runtime.errors import UsageError

AFFINE = np.diag([-6.0, -6.0, 8.0, 1.0])


def label_map(path):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6], labels[3:5, 3:5, 3:5] = 1, 2
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".nrrd":
        nib.save(nib.Nifti1Image(labels, AFFINE), path.parent / "temporary.nii")
        sitk.WriteImage(sitk.ReadImage(str(path.parent / "temporary.nii")), str(path))
        (path.parent / "temporary.nii").unlink()
    else:
        nib.save(nib.Nifti1Image(labels, AFFINE), path)
    return path


@pytest.fixture
def masks(tmp_path):
    """Masks of a and b; a ground truth of c too."""
    for case in "ab":
        label_map(tmp_path / "masks" / f"{case}_seg.nii.gz")
    for case in "abc":
        label_map(tmp_path / "labels" / f"{case}.nii.gz")
    return tmp_path / "masks"


def evaluate(masks, *more):
    return main(["evaluate", "--predictions", str(masks), "--labels", str(masks.parent / "labels"), *map(str, more)])


def test_a_ground_truth_without_a_prediction_fails_by_name(masks, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert evaluate(masks, "-o", out) == 1
    printed = capsys.readouterr()
    assert "1 of 3 cases lack a prediction" in printed.err and "(c)" in printed.err
    assert "--allow-missing" in printed.err
    assert printed.out.splitlines()[-1] == "scored 2 cases, failed 1"
    written = json.loads(out.read_text())
    assert list(written["failed"]) == written["missing"] == ["c"] and list(written["cases"]) == ["a", "b"]


def test_missing_predictions_can_be_left_out_which_is_said(masks, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert evaluate(masks, "--allow-missing", "-o", out) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "scored 2 cases, failed 0; 1 without prediction left out (c)"
    written = json.loads(out.read_text())
    assert (written["failed"], written["missing"]) == ({}, ["c"])


def test_many_missing_predictions_are_one_short_line(masks, capsys):
    for number in range(40):
        label_map(masks.parent / "labels" / f"case_{number:05d}" / "segmentation.nii.gz")
    assert evaluate(masks) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")]
    assert len(lines) == 1 and "41 of 43" in lines[0] and "(c, case_00000, case_00001, …)" in lines[0]


def test_masks_below_the_directory_are_found_as_predict_names_them(tmp_path):
    for place in ("one", "two"):
        label_map(tmp_path / "masks" / place / "scan_seg.nii.gz")
        label_map(tmp_path / "labels" / place / "scan.nii.gz")
    label_map(tmp_path / "masks" / "site" / "case_00000_seg.nii.gz")
    label_map(tmp_path / "labels" / "site" / "case_00000" / "segmentation.nii.gz")
    label_map(tmp_path / "labels" / "site" / "case_00000" / "instances" / "kidney_1.nii.gz")
    label_map(tmp_path / "labels" / "site" / "case_00000" / "imaging.nii.gz")
    scores, failed = score_directories(tmp_path / "masks", tmp_path / "labels")
    assert list(scores.by_case) == ["one/scan", "site/case_00000", "two/scan"] and not failed
    assert list(find_masks(tmp_path / "labels")) == list(scores.by_case)


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.NII.GZ", "a_seg.nii", "a.nrrd"])
def test_a_ground_truth_is_found_by_every_usual_name(tmp_path, name):
    label_map(tmp_path / "masks" / "a_seg.nii.gz")
    made = label_map(tmp_path / "labels" / name.replace("NII.GZ", "nii.gz"))
    made.rename(made.with_name(name))
    scores, failed = score_directories(tmp_path / "masks", tmp_path / "labels")
    assert list(scores.by_case) == ["a"] and not failed


def test_a_directory_that_does_not_exist_is_named(masks, tmp_path):
    for pair in ((tmp_path / "none", masks), (masks, tmp_path / "none")):
        with pytest.raises(UsageError, match="none: no such directory"):
            score_directories(*pair)
    with pytest.raises(UsageError, match=r"a\.nii\.gz: is a file; name its directory"):
        score_directories(masks, tmp_path / "labels" / "a.nii.gz")


def test_an_output_that_is_a_directory_is_refused_before_scoring(masks, tmp_path, capsys):
    assert evaluate(masks, "--allow-missing", "-o", tmp_path) == 2
    printed = capsys.readouterr()
    assert f"error: {tmp_path}: is a directory; name a file in it" in printed.err and not printed.out
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "scores.json"
    assert evaluate(masks, "--allow-missing", "-o", below) == 2
    assert f"error: {below}: cannot be written" in capsys.readouterr().err


def test_structures_whose_names_begin_alike_keep_their_rows(masks, capsys):
    assert evaluate(masks, "--allow-missing", "--structures", "kid=1", "kidney=2") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a ")]
    assert len(rows) == 2 and all(row.count("dice") == 3 and "ney_" not in row for row in rows)
    assert evaluate(masks, "--structures", "kidney=1", "kidney=2") == 2
    assert "kidney is given twice" in capsys.readouterr().err


def test_scores_are_written_where_the_output_cannot_show_a_name(tmp_path):
    label_map(tmp_path / "masks" / "患者_seg.nii.gz")
    label_map(tmp_path / "labels" / "患者.nii.gz")
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "evaluate", "--predictions", str(tmp_path / "masks")]
    command += ["--labels", str(tmp_path / "labels"), "-o", str(tmp_path / "scores.json")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert list(json.loads((tmp_path / "scores.json").read_text())["cases"]) == ["患者"]
    assert done.returncode == 0 and b"dice 1.0000" in done.stdout


def test_a_name_does_not_become_a_formula_in_the_csv(tmp_path):
    for name in ("=1+2", "-a", "@b", "c"):
        label_map(tmp_path / "masks" / f"{name}_seg.nii.gz")
        label_map(tmp_path / "labels" / f"{name}.nii.gz")
    assert evaluate(tmp_path / "masks", "--csv", tmp_path / "scores.csv") == 0
    with open(tmp_path / "scores.csv", newline="") as stream:
        assert [row["case_id"] for row in csv.DictReader(stream)][:4] == ["'-a", "'=1+2", "'@b", "c"]


def test_a_picture_is_a_png_or_refused(masks, tmp_path, capsys):
    command = ["picture", "scan.nii.gz", "--mask", str(masks / "a_seg.nii.gz"), "-o"]
    assert main([*command, str(tmp_path / "picture.jpg")]) == 2
    assert "picture.jpg: the picture is a PNG; give it a name that ends in .png" in capsys.readouterr().err
    (tmp_path / "picture.png").mkdir()
    assert main([*command, str(tmp_path / "picture.png")]) == 2
    assert "picture.png: is a directory; name a file in it" in capsys.readouterr().err


def test_scores_do_not_replace_a_mask(masks, capsys):
    mask = masks / "a_seg.nii.gz"
    before = mask.read_bytes()
    assert evaluate(masks, "--allow-missing", "-o", mask) == 2
    assert "is the name of a mask" in capsys.readouterr().err and mask.read_bytes() == before


def test_a_case_named_mean_is_refused(masks, capsys):
    label_map(masks / "mean_seg.nii.gz")
    assert evaluate(masks, "--allow-missing") == 2
    assert "the name mean is reserved for the mean of all cases" in capsys.readouterr().err


def test_headers_are_corrected_as_for_predictions(masks, capsys):
    """The messages of the reader name these options."""
    for path in (masks / "a_seg.nii.gz", masks.parent / "labels" / "a.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=3), AFFINE), path)
    assert evaluate(masks, "--allow-missing") == 1
    assert "--volume" in capsys.readouterr().err
    assert evaluate(masks, "--allow-missing", "--volume", "1") == 0
