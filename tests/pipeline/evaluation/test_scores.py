import numpy as np
import pytest
import torch
from conftest import configured_loss, golden, rng

from kits_unet3d.pipeline.evaluation import dice_scores, kits19_scores
from kits_unet3d.pipeline.evaluation.directories import score_directories

pytestmark = pytest.mark.numeric


def recorded_case(k):
    """Return the golden, the logits and the label of its case ``k``."""
    recorded = golden("losses")
    seed, shape = int(recorded["seed"]), tuple(int(n) for n in recorded[f"shape_{k}"])
    logits = torch.from_numpy(rng(seed + k).standard_normal(shape, dtype=np.float32) * 3)
    label = rng(seed + 100 + k).integers(0, 3, (shape[0], 1, *shape[2:]))
    label[np.isin(label, recorded[f"missing_{k}"])] = 0
    return recorded, logits, torch.from_numpy(label)


def distance(loss, k):
    recorded, logits, label = recorded_case(k)
    return abs(loss(logits, label).item() - float(recorded[f"dice_ce_{k}"]))


@pytest.mark.parametrize("k", range(4))
def test_loss_and_score_are_the_references(k):
    assert distance(configured_loss(), k) < 1e-6
    recorded, logits, label = recorded_case(k)
    scores = [dice_scores(p, t) for p, t in zip(logits.argmax(1, keepdim=True), label, strict=True)]
    np.testing.assert_allclose(np.mean(scores, axis=0), recorded[f"dice_score_{k}"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("smooth_nr", 1e-1), ("smooth_dr", 1e-1), ("batch", True), ("include_background", True)]
)
def test_the_bound_finds_a_loss_that_is_a_little_wrong(name, value):
    loss = configured_loss()
    setattr(loss.dice, name, value)
    assert max(distance(loss, k) for k in range(4)) > 3e-6


def test_dice_of_a_hand_made_case():
    label, predicted = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    label[0, 0, 0] = 1  # two voxels of kidney
    predicted[0, 0, 0, 0] = 1  # one of them found: 2·1 / (1 + 2)
    predicted[0, 1, 1, 1] = 2  # a tumour where there is none
    assert dice_scores(predicted, label) == pytest.approx([2 / 3, 0.0])
    assert dice_scores(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)) == [1.0, 1.0]


def test_kits19_counts_the_tumour_as_kidney_and_scores_two_empty_masks_1():
    ground_truth = np.array([[[0, 1, 2, 2]]])
    predicted = np.array([[[0, 2, 1, 0]]])
    scores = kits19_scores(predicted, ground_truth)
    assert scores["kidney_dice"] == pytest.approx(2 * 2 / (2 + 3))
    assert scores["tumour_dice"] == 0.0
    nothing = np.zeros((1, 1, 4), int)
    assert kits19_scores(nothing, nothing) == {"kidney_dice": 1.0, "tumour_dice": 1.0}
    assert kits19_scores(nothing, ground_truth) == {"kidney_dice": 0.0, "tumour_dice": 0.0}


def test_a_missing_ground_truth_fails_that_case_alone(tmp_path, raw_phantoms):
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in ("case_00000", "case_00001"):
        (masks / f"{case}_seg.nii.gz").write_bytes((raw_phantoms / case / "segmentation.nii.gz").read_bytes())
    (masks / "stranger.nii.gz").write_bytes((raw_phantoms / "case_00000" / "segmentation.nii.gz").read_bytes())
    scores, failed = score_directories(masks, raw_phantoms)
    assert (scores.mean["kidney_dice"], scores.mean["tumour_dice"]) == (1.0, 1.0)
    assert sorted(scores.by_case) == ["case_00000", "case_00001"]
    assert "segmentation.nii.gz does not exist" in failed["stranger"]
