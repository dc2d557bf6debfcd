"""Masks that name their classes are scored by the names, whatever the values."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from niftis import nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.evaluation import KITS23, scoring_of
from kits_unet3d.pipeline.io.mask import write_mask
from kits_unet3d.pipeline.io.scan import read_scan

KITS19, WITH_CYST = ("background", "kidney", "tumour"), ("background", "kidney", "tumour", "cyst")
SPLIT = ("background", "kidney_right", "tumour", "kidney_left")


def mask_of(right, left, tumour=2, cyst=0):
    mask = np.zeros((12, 14, 10), np.uint8)
    mask[1:4, 3:9, 2:8], mask[8:11, 3:9, 2:8], mask[2:4, 4:6, 3:6], mask[8:10, 7:9, 3:6] = right, left, tumour, cyst
    return mask


@pytest.fixture
def directory(tmp_path):
    """Write one mask with the names of its classes, and its ground truth without names."""
    scan = read_scan(nifti(tmp_path / "a.nii.gz"))

    def write(predicted, classes, ground_truth, mask_format="scan"):
        write_mask(predicted, scan.grid, tmp_path / "masks", classes, mask_format)
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(ground_truth, scan.affine), tmp_path / "labels" / "a.nii.gz")

    return write


def evaluate(directory, *more):
    out = directory / "scores.json"
    command = ["evaluate", "--predictions", str(directory / "masks"), "--labels", str(directory / "labels")]
    code = main([*command, "-o", str(out), *more])
    return code, json.loads(out.read_text())


@pytest.mark.parametrize("mask_format", ["scan", "seg-nrrd"])
def test_right_and_left_kidney_are_scored_as_kidney(tmp_path, directory, mask_format):
    directory(mask_of(1, 3, cyst=3), SPLIT, mask_of(1, 1, cyst=1), mask_format)
    code, scores = evaluate(tmp_path)
    assert code == 0 and scores["cases"]["a"]["kidney_dice"] == scores["cases"]["a"]["tumour_dice"] == 1


def test_a_left_kidney_is_never_scored_as_cyst(tmp_path, directory):
    truth = mask_of(1, 1, cyst=3)
    directory(mask_of(1, 3, cyst=3), SPLIT, truth)
    code, scores = evaluate(tmp_path, "--structures", "kits23")
    assert code == 0 and scores["cases"]["a"]["cyst_dice"] == 0 and scores["cases"]["a"]["kidney_and_masses_dice"] == 1
    directory(mask_of(1, 4, cyst=3), (*SPLIT[:3], "cyst", "kidney_left"), truth)
    code, scores = evaluate(tmp_path, "--structures", "kits23")
    assert code == 0 and set(scores["cases"]["a"][f"{name}_dice"] for name in KITS23.structures) == {1}
    code, scores = evaluate(tmp_path, "--structures", "kidney=1", "tumour=2", "cyst=3")
    assert code == 0 and scores["mean"]["kidney_dice"] == scores["mean"]["cyst_dice"] == 1


def test_structures_by_value_refuse_a_side_that_is_left_out(tmp_path, directory, capsys):
    directory(mask_of(1, 3, cyst=3), SPLIT, mask_of(1, 1, cyst=1))
    code, scores = evaluate(tmp_path, "--structures", "kidney=1,2", "tumour=2")
    assert code == 1 and not scores["cases"]
    error = capsys.readouterr().err
    assert "value 3 (kidney_left)" in error and "use --structures kits19 or kits23" in error
    assert evaluate(tmp_path, "--structures", "kidney=1,2,3", "tumour=2")[1]["mean"]["kidney_dice"] == 1
    assert evaluate(tmp_path, "--structures", "right=1", "tumour=2", "left=3")[0] == 0


def test_classes_with_other_values_are_found_by_their_names(tmp_path, directory):
    directory(mask_of(2, 2, tumour=1, cyst=2), ("background", "tumour", "kidney"), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[1]["mean"]["tumour_dice"] == 1


@pytest.mark.parametrize(
    ("names", "values"), [(("Tumor", "Kidney"), (2, 1)), (("left kidney", "Kidney_Right", "TUMOUR"), (2, 3))]
)
def test_the_usual_spellings_of_a_class_are_known(tmp_path, directory, names, values):
    kidney, tumour = values
    left = 1 if len(names) == 3 else kidney
    directory(mask_of(kidney, left, tumour, cyst=left), ("background", *names), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[1]["mean"] == evaluate(tmp_path)[1]["mean"] | {"kidney_dice": 1, "tumour_dice": 1}


def test_names_of_another_language_are_reported(tmp_path, directory, caplog):
    directory(mask_of(1, 1, cyst=1), ("background", "Niere", "Geschwulst"), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[1]["mean"]["tumour_dice"] == 1
    assert "a_seg.nii.gz: names Niere, Geschwulst, and none of kidney, tumour; its values count" in caplog.text


def test_another_class_is_not_scored_as_a_tumour(tmp_path, directory, capsys):
    directory(mask_of(1, 1, cyst=1), ("background", "kidney", "cyst"), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[0] == 1
    assert "a_seg.nii.gz: its value 2 is cyst, but 2 is scored as tumour; name" in capsys.readouterr().err
    assert evaluate(tmp_path, "--structures", "kidney=1,2", "lesion=2")[0] == 0


def test_names_that_mean_nothing_here_change_nothing(tmp_path, directory):
    directory(mask_of(1, 1, cyst=1), ("background", "Segment_1", "Segment_2"), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[1]["mean"]["tumour_dice"] == 1


def test_classes_of_other_organs_are_scored_each_alone():
    scoring = scoring_of(("background", "spleen", "liver"))
    assert dict(scoring.structures) == {"spleen": (1,), "liver": (2,)} and not scoring.lesions
    assert scoring_of(()) is scoring_of(KITS19) is not scoring_of(WITH_CYST)


@pytest.fixture
def raw(tmp_path):
    """Return nnU-Net's raw directory with a case for training and one for evaluation, named as it likes."""
    scan = nib.load(nifti(tmp_path / "a.nii.gz"))
    for split, case in (("Tr", "a"), ("Ts", "b")):
        for kind, end in (("images", "_0000"), ("labels", "")):
            (tmp_path / "raw" / f"{kind}{split}").mkdir(parents=True, exist_ok=True)
            path = tmp_path / "raw" / f"{kind}{split}" / f"{case}{end}.nii.gz"
            nib.save(scan if end else nib.Nifti1Image(mask_of(2, 2, tumour=1, cyst=2), scan.affine), path)
    labels = {"background": 0, "tumor": 1, "kidney": [1, 2]}
    about = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(about))
    return tmp_path / "raw"


@pytest.mark.parametrize(("place", "cases"), [("", "ab"), ("labelsTs", "b"), ("labelsTr", "a")])
def test_a_raw_directory_of_nnunet_gives_label_maps_and_names(tmp_path, raw, place, cases):
    for case in cases:
        scan = read_scan(nifti(tmp_path / f"{case}{'_0000' if place else ''}.nii.gz"))
        write_mask(mask_of(1, 3, cyst=3), scan.grid, tmp_path / "masks", SPLIT)
    command = ["evaluate", "--predictions", str(tmp_path / "masks"), "--labels", str(raw / place)]
    assert main([*command, "-o", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores["cases"]) == list(cases)
    assert scores["mean"]["kidney_dice"] == scores["mean"]["tumour_dice"] == 1


def test_masks_of_nnunet_have_the_names_of_their_data_set(tmp_path, raw):
    """nnU-Net copies dataset.json beside its predictions."""
    (tmp_path / "masks").mkdir()
    affine = nib.load(raw / "labelsTs" / "b.nii.gz").affine
    nib.save(nib.Nifti1Image(mask_of(1, 1, cyst=1), affine), tmp_path / "masks" / "b.nii.gz")
    about = json.loads((raw / "dataset.json").read_text()) | {"labels": {"background": 0, "kidney": 1, "tumor": 2}}
    (tmp_path / "masks" / "dataset.json").write_text(json.dumps(about))
    command = ["evaluate", "--predictions", str(tmp_path / "masks"), "--labels"]
    assert main([*command, str(raw / "labelsTs"), "-o", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["mean"]["tumour_dice"] == 1


def test_a_copied_description_never_makes_the_ground_truth_a_prediction(tmp_path, raw):
    (tmp_path / "masks").mkdir()
    affine = nib.load(raw / "labelsTs" / "b.nii.gz").affine
    nib.save(nib.Nifti1Image(mask_of(2, 0, tumour=2, cyst=2), affine), tmp_path / "masks" / "a.nii.gz")
    about = json.loads((raw / "dataset.json").read_text())
    listed = {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": str(raw / "labelsTr" / "a.nii.gz")}}
    about["labels"] |= {"ignore": 3}
    (tmp_path / "masks" / "dataset.json").write_text(json.dumps(about | {"dataset": listed}))
    command = ["evaluate", "--predictions", str(tmp_path / "masks"), "--labels", str(raw), "--allow-missing"]
    assert main([*command, "-o", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["cases"]["a"]
    assert scores["tumour_dice"] == 0 and scores["kidney_dice"] < 1


def test_the_advice_on_a_3_scores_it_as_kidney(tmp_path, directory, capsys):
    directory(mask_of(1, 1, cyst=3), ("background", "Segment_1", "Segment_2", "Segment_3"), mask_of(1, 1, cyst=1))
    assert evaluate(tmp_path)[0] == 1
    advice = re.search(r"count 3 as kidney with (--structures .*)", capsys.readouterr().err)[1]
    code, scores = evaluate(tmp_path, *advice.split())
    assert code == 0 and scores["mean"]["kidney_dice"] == scores["mean"]["tumour_dice"] == 1
