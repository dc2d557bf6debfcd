"""Compare KiTS23's scores with the challenge's own code, and lesions with hand-made ones."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import golden, rng, shared
from scipy import ndimage

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.evaluation import KITS19, KITS23, CaseScores, Scores, scoring_of
from kits_unet3d.pipeline.evaluation.lesions import detection, find_lesions
from kits_unet3d.pipeline.io.labels import read_labels

HIERARCHY = ("kidney_and_masses", "masses", "tumour")
SPACINGS = ((5.0, 0.78, 0.78), (1.0, 1.0, 1.0), (2.5, 0.7, 0.9), (0.5, 0.45, 0.45))
HAND_MADE = 12
#: Label maps with cysts and without, with thick and thin slices.
REAL = ("case_00050", "case_00069", "case_00088", "case_00117", "case_00130", "case_00182")


def hand_made(k):
    """Return a smooth random prediction and ground truth, and their voxel size; some lack a class or everything."""
    random, shape = rng(2300 + k), (14, 22, 20)
    smooth = [ndimage.gaussian_filter(random.standard_normal(shape), 2) for _ in range(3)]
    fields = [field / field.std() for field in smooth]
    maps = []
    for shift in (0.0, 0.25):
        body, mass = fields[0] + shift * fields[2], fields[1] - shift * fields[2]
        label = np.where(body > 0.4, 1, 0)
        label[(body > 0.4) & (mass > 0.6)] = 2
        label[(body > 0.2) & (mass < -0.9)] = 3
        maps.append(label.astype(np.uint8))
    ground_truth, predicted = maps
    if k % 4 == 1:
        ground_truth[ground_truth == 2] = predicted[predicted == 2] = 1  # no tumour in either
    if k % 4 == 2:
        predicted[predicted > 1] = 1  # neither tumour nor cyst found
    if k == 3:
        predicted[:] = 0
    return predicted, ground_truth, SPACINGS[k % len(SPACINGS)]


def real(case_id):
    """Return a label map of KiTS23, and as prediction itself moved, with its largest cyst as tumour."""
    labels = read_labels(shared(f"data/kits23_labels/{case_id}/segmentation.nii.gz"))
    ground_truth = labels.voxels
    predicted = ground_truth.copy()
    parts, count = ndimage.label(ground_truth == 3)
    if count:
        predicted[parts == np.bincount(parts.ravel())[1:].argmax() + 1] = 2
    predicted = np.roll(predicted, (1, 2, -1), (0, 1, 2))
    return predicted, ground_truth, labels.spacing_mm


def table(scores):
    return np.array([[scores[f"{name}_dice"], scores[f"{name}_surface_dice"]] for name in HIERARCHY])


def challenge(predicted, ground_truth, spacing_mm):
    """Score a pair with the challenge's own code."""
    reason = "needs github neheller/kits23 and google-deepmind/surface-distance on PYTHONPATH"
    metrics = pytest.importorskip("kits23.evaluation.metrics", reason=reason)
    labels = metrics.KITS_HEC_LABEL_MAPPING
    sizes = tuple(float(size) for size in spacing_mm)
    rows = [metrics.compute_metrics_for_label(predicted, ground_truth, labels[name], sizes) for name in labels]
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("k", range(HAND_MADE))
def test_hand_made_pairs_score_as_by_the_challenge(k):
    np.testing.assert_allclose(table(KITS23.scores(*hand_made(k))), golden("kits23")["hand_made"][k], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", REAL)
def test_real_label_maps_score_as_by_the_challenge(case_id):
    np.testing.assert_allclose(table(KITS23.scores(*real(case_id))), golden("kits23")[case_id], atol=1e-6)


@pytest.mark.parametrize("k", range(HAND_MADE))
def test_the_goldens_are_the_numbers_of_the_challenges_code(k):
    np.testing.assert_allclose(challenge(*hand_made(k)), golden("kits23")["hand_made"][k], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", REAL)
def test_the_goldens_of_real_label_maps_are_the_challenges(case_id):
    np.testing.assert_allclose(challenge(*real(case_id)), golden("kits23")[case_id], atol=1e-12)


def test_the_classes_of_a_data_set_decide_its_scores():
    assert scoring_of(["background", "kidney", "tumour", "cyst"]) is KITS23
    assert scoring_of(["background", "kidney", "tumour"]) is KITS19
    assert KITS23.mean_dice({f"{name}_dice": value for name, value in zip(HIERARCHY, (1, 0.5, 0), strict=True)}) == 0.5


def ball(array, centre, radius, value):
    distance = np.linalg.norm(np.indices(array.shape) - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    array[distance <= radius] = value


def test_lesions_are_found_missed_and_confused_one_by_one():
    ground_truth = np.zeros((60, 60, 60), np.uint8)
    predicted = np.zeros_like(ground_truth)
    ball(ground_truth, (12, 12, 12), 8, 2)  # 16 mm: found
    ball(predicted, (13, 12, 12), 8, 2)
    ball(ground_truth, (12, 40, 12), 4, 2)  # 8 mm: read as a cyst
    ball(predicted, (12, 40, 12), 4, 3)
    ball(ground_truth, (40, 12, 12), 12, 3)  # 24 mm: missed
    ball(ground_truth, (50, 50, 50), 6, 3)  # 12 mm: found in two pieces
    ball(predicted, (50, 50, 50), 6, 3)
    predicted[50, :, :][predicted[50, :, :] == 3] = 0
    ball(predicted, (12, 12, 50), 3, 2)  # no lesion there
    ground_truth[0, 0, 0] = predicted[59, 0, 0] = 3  # single voxels do not count
    found = detection({"a": find_lesions(predicted, ground_truth, KITS23.lesions, 0.001)}, KITS23.lesions)
    sizes = found["by_size"]
    assert sizes["tumour"]["10-20"] == {
        "lesions": 1, "found": 1, "sensitivity": 1.0, "false_positives": 0, "false_positives_per_case": 0.0,
    }  # fmt: skip
    assert (sizes["tumour"]["0-10"]["lesions"], sizes["tumour"]["0-10"]["sensitivity"]) == (1, 0.0)
    assert sizes["tumour"]["0-10"]["false_positives"] == sizes["tumour"]["all"]["false_positives"] == 1
    assert (sizes["cyst"]["all"]["lesions"], sizes["cyst"]["all"]["found"]) == (2, 1)
    assert sizes["cyst"]["0-10"]["false_positives"] == 1 and sizes["tumour"]["40-"]["sensitivity"] is None
    assert found["confusion"] == {
        "tumour": {"tumour": 1, "cyst": 1, "none": 0},
        "cyst": {"tumour": 0, "cyst": 1, "none": 1},
        "none": {"tumour": 1, "cyst": 0},
    }


@pytest.mark.parametrize("scoring", [KITS19, KITS23])
def test_two_empty_masks_agree_and_have_no_lesions(scoring):
    empty = np.zeros((30, 30, 30), np.uint8)
    assert set(scoring.scores(empty, empty).values()) == {1.0}
    assert scoring.find_lesions(empty, empty, 0.001) == {"lesions": [], "predicted": []}


def test_a_lesion_marked_half_and_half_is_read_as_its_own_class():
    ground_truth = np.zeros((12, 12, 12), np.uint8)
    ground_truth[2:10, 2:10, 2:10] = 3
    predicted = ground_truth.copy()
    predicted[2:6, 2:10, 2:10] = 2
    (cyst,) = find_lesions(predicted, ground_truth, KITS23.lesions, 0.001)["lesions"]
    assert cyst["class"] == cyst["read_as"] == "cyst"


def test_a_training_of_four_classes_is_scored_by_the_hierarchy():
    predicted, ground_truth, spacing_mm = hand_made(0)
    classes = ["background", "kidney", "tumour", "cyst"]
    scores = CaseScores(classes, spacing_mm)
    pair = {name: torch.from_numpy(array[None]) for name, array in (("pred", predicted), ("label", ground_truth))}
    engine = type("Engine", (), {"state": type("State", (), {"batch": [{"case_id": "a"}], "output": [pair]})})
    scores.update(engine)
    of = scores.table.by_case["a"]
    np.testing.assert_allclose(table(of), golden("kits23")["hand_made"][0], atol=1e-6)
    assert of["mean_dice"] == pytest.approx(table(of)[:, 0].mean()) and "cyst_dice" in of
    assert set(CaseScores(classes)._scores(*pair.values())) == {
        "mean_dice", "cyst_dice", *(f"{name}_dice" for name in HIERARCHY),
    }  # fmt: skip


@pytest.fixture
def masks(tmp_path):
    """Return directories of masks and of ground truths in KiTS23's layout, one case with a cyst and one without."""
    for number, case_id in enumerate(("case_00003", "case_00412")):
        predicted, ground_truth, spacing_mm = hand_made(4 * number)
        ground_truth[(ground_truth == 3) & (number == 1)] = 1
        for array, path in (
            (predicted, tmp_path / "masks" / f"{case_id}_seg.nii.gz"),
            (ground_truth, tmp_path / "labels" / case_id / "segmentation.nii.gz"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)
    return tmp_path / "masks", tmp_path / "labels"


def evaluate(masks, labels, *options):
    return main(["evaluate", "--predictions", str(masks), "--labels", str(labels), *options])


def test_evaluate_finds_out_that_the_labels_are_of_kits23(masks, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert evaluate(*masks, "-o", str(out)) == 0
    written, printed = json.loads(out.read_text()), capsys.readouterr().out
    of = written["cases"]["case_00003"]
    np.testing.assert_allclose(table(of), golden("kits23")["hand_made"][0], atol=1e-6)
    assert {"cyst_dice", "cyst_surface_dice", "tumour_hd95_mm"} <= of.keys()
    rows = [line for line in printed.splitlines() if " surface_dice " in line]
    assert len(rows) == 3 * 4 and any(row.startswith("mean         kidney_and_masses dice ") for row in rows)
    for column in (" dice ", " hd95_mm ", " surface_dice "):
        assert len({row.index(column) for row in rows}) == 1
    assert set(written["detection"]["confusion"]) == {"tumour", "cyst", "none"}
    assert "cyst in the ground truth: predicted as tumour" in printed
    assert written["lesions"]["case_00003"]["lesions"][0].keys() == {"class", "volume_ml", "diameter_mm", "read_as"}


def test_evaluate_names_the_way_to_score_a_cyst(masks, tmp_path, capsys):
    (tmp_path / "flat").mkdir()
    for case_id in ("case_00003", "case_00412"):
        shutil.copy(masks[1] / case_id / "segmentation.nii.gz", tmp_path / "flat" / f"{case_id}.nii.gz")
    assert evaluate(masks[0], tmp_path / "flat") == 1
    assert "--structures kits23" in capsys.readouterr().err
    assert evaluate(masks[0], tmp_path / "flat", "--structures", "kits23") == 0


def test_scores_without_compared_lesions_list_none():
    assert "detection" not in Scores({"a": {"dice": 1.0}}).as_dict()
