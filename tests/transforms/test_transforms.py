"""The recipe's transforms: the law of each, and that none of them changes its input."""

import hashlib
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import golden, rng
from monai.data import MetaTensor
from monai.transforms import Compose

from kits_unet3d.transforms import (
    CropToStride,
    CropToStrided,
    PreprocessingParameters,
    RandBalancedCrop,
    RandBalancedCropd,
    ResampleToSpacing,
    ResampleToSpacingd,
    augmentation,
    component_boxes,
    preprocessing,
    wide_augmentation,
)

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("k", range(4))
def test_preparation_gives_the_references_bytes(k):
    recorded = golden("preprocess")
    seed, shape = int(recorded["seed"]), tuple(recorded[f"in_shape_{k}"])
    case = {
        "image": rng(seed + k).integers(-1100, 1800, shape).astype(np.float32)[None],
        "label": rng(seed + 100 + k).integers(0, 3, shape).astype(np.uint8)[None],
        "spacing": np.float32(recorded[f"spacing_{k}"]),
    }
    kept = {key: value.copy() for key, value in case.items()}
    done = preprocessing(PreprocessingParameters(), source_key="spacing")(case)
    image, label = np.asarray(done["image"]), np.asarray(done["label"]).astype(np.uint8)
    assert image.shape == tuple(recorded[f"out_shape_{k}"]) and image.dtype == np.float32
    np.testing.assert_allclose(image[0, ::16, ::16, ::16], recorded[f"image_stride16_{k}"], atol=1e-5, rtol=0)
    assert hashlib.md5(label.tobytes()).hexdigest() == str(recorded[f"label_md5_{k}"])
    if hashlib.md5(image.tobytes()).hexdigest() != str(recorded[f"image_md5_{k}"]):
        warnings.warn("this processor's arithmetic differs from the reference's in the last bits", stacklevel=1)
        assert abs(image.mean() - recorded[f"image_mean_{k}"]) < 1e-5
    assert all(np.array_equal(case[key], kept[key]) for key in case)


def test_resampling_updates_the_affine_so_that_corners_stay():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, -6.0, 7.0])
    image = MetaTensor(torch.rand(1, 11, 12, 13), affine=affine)
    result = ResampleToSpacing((1.0, 1.0, 1.0))(image)
    assert result.shape == (1, 22, 36, 52)
    last_old = affine @ torch.tensor([10.0, 11.0, 12.0, 1.0], dtype=torch.float64)
    last_new = result.affine @ torch.tensor([21.0, 35.0, 51.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(last_old, last_new)
    assert result[0, -1, -1, -1] == image[0, -1, -1, -1] and result[0, 0, 0, 0] == image[0, 0, 0, 0]


def test_resampling_inverts_to_the_old_grid():
    zz = torch.linspace(0, 1, 20)[None, :, None, None].expand(1, 20, 10, 10)  # linear along D: nothing is lost
    image = MetaTensor(zz.clone(), affine=torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])))
    transform = ResampleToSpacingd("image", (1.3, 0.8, 0.8))
    done = transform({"image": image})
    back = transform.inverse(done)["image"]
    assert back.shape == image.shape
    torch.testing.assert_close(back.as_tensor(), image.as_tensor(), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.affine, image.affine, atol=1e-9, rtol=0)


def test_resampling_works_lazily_in_a_compose():
    image = MetaTensor(torch.rand(1, 10, 12, 14), affine=torch.diag(torch.tensor([2.0, 1.5, 1.5, 1.0])))
    steps = [ResampleToSpacingd("image", (1.0, 1.0, 1.0))]
    eager, lazy = Compose(steps)({"image": image})["image"], Compose(steps, lazy=True)({"image": image})["image"]
    assert lazy.shape == eager.shape == (1, 20, 18, 21)
    torch.testing.assert_close(lazy.as_tensor(), eager.as_tensor(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bad", [torch.zeros(4, 4, 4), torch.zeros(1, 4, 4)])
def test_resampling_says_which_shape_it_wants(bad):
    with pytest.raises(ValueError, match=r"\(C, D, H, W\)"):
        ResampleToSpacing((1, 1, 1))(bad, (1, 1, 1))


def test_resampling_without_affine_asks_for_the_voxel_size():
    with pytest.raises(ValueError, match="source_mm"):
        ResampleToSpacing((1, 1, 1))(torch.zeros(1, 4, 4, 4))


def label_with(*boxes: tuple[int, tuple[slice, slice, slice]], shape=(20, 20, 20)) -> np.ndarray:
    label = np.zeros((1, *shape), np.uint8)
    for number, box in boxes:
        label[(0, *box)] = number
    return label


def starts(label: np.ndarray, roi: int, probability: float = 1.0, draws: int = 4000) -> Counter:
    crop = RandBalancedCrop(roi, probability)
    crop.set_random_state(0)
    boxes = component_boxes(label)
    seen = Counter()
    for _ in range(draws):
        crop.randomize(label.shape[1:], boxes)
        seen[crop.start] += 1
    return seen


def cube(a: int, b: int) -> tuple[slice, slice, slice]:
    return (slice(a, b),) * 3


def test_a_patch_around_a_box_never_has_the_full_margin_below():
    # extent 2, patch 6: margin below from range(4), so the patch starts 0 to 3 before the box at 10
    for axis in range(3):
        seen = Counter()
        for start, count in starts(label_with((1, cube(10, 12))), 6).items():
            seen[start[axis]] += count
        assert set(seen) == {7, 8, 9, 10}
        assert max(seen.values()) < 1.2 * min(seen.values())
    # Each axis for itself: all 64 of them come, about 62 times each.
    together = starts(label_with((1, cube(10, 12))), 6)
    assert len(together) == 64 and max(together.values()) < 100 and min(together.values()) > 30


def test_a_component_larger_than_the_patch_is_entered():
    # extent 12, patch 8: the window shrinks by range(4) from below
    seen = starts(label_with((1, cube(4, 16))), 8)
    assert {start[0] for start in seen} == {4, 5, 6, 7}
    assert len(seen) == 64 and max(seen.values()) < 100 and min(seen.values()) > 30


def test_a_patch_is_pushed_back_at_the_borders():
    low = starts(label_with((1, cube(0, 2))), 8)
    assert {start[0] for start in low} == {0}
    high = starts(label_with((1, cube(18, 20))), 8)
    assert {start[0] for start in high} == {12}


def test_the_two_components_with_the_largest_boxes_are_drawn_equally():
    label = label_with((1, cube(0, 1)), (1, cube(4, 8)), (1, cube(12, 17)))
    seen = starts(label, 5)
    near_second = sum(count for start, count in seen.items() if 3 <= start[0] <= 4)
    near_third = sum(count for start, count in seen.items() if start[0] >= 11)
    assert near_second + near_third == 4000
    assert 0.45 < near_second / 4000 < 0.55


def test_classes_present_are_drawn_alike_whatever_their_size():
    label = label_with((1, cube(0, 8)), (2, cube(15, 16)))
    near_tumour = sum(count for start, count in starts(label, 4).items() if start[0] >= 12)
    assert 0.45 < near_tumour / 4000 < 0.55


def test_the_probability_of_foreground_is_kept():
    label = label_with((1, cube(18, 20)))
    seen = starts(label, 4, probability=0.4, draws=8000)
    at_foreground = seen[(16, 16, 16)] / 8000
    assert 0.37 < at_foreground < 0.43


def test_a_crop_without_foreground_is_uniform_without_the_last_offset():
    seen = starts(label_with(shape=(20, 20, 4)), 4)
    assert {start[0] for start in seen} == set(range(16))
    assert {start[2] for start in seen} == {0}


def test_a_volume_of_the_patchs_size_is_taken_whole():
    label = label_with((2, cube(1, 3)), shape=(4, 4, 4))
    for probability in (0.0, 1.0):
        assert set(starts(label, 4, probability, 50)) == {(0, 0, 0)}


def test_a_volume_smaller_than_the_patch_is_refused():
    with pytest.raises(ValueError, match="smaller than roi_size"):
        RandBalancedCrop(8)(np.zeros((1, 4, 8, 8)), np.zeros((1, 4, 8, 8)))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_crops_agree_and_leave_their_input_alone(kind):
    label = label_with((1, cube(3, 9)))
    data = {"image": kind(label.astype(np.float32) * 2), "label": kind(label), "other": kind(label)}
    crop = RandBalancedCropd(["image", "label"], "label", 6, 1.0).set_random_state(3)
    done = crop(data)
    assert done["image"].shape == done["label"].shape == (1, 6, 6, 6)
    assert (np.asarray(done["image"]) == 2 * np.asarray(done["label"])).all()
    done["image"][...] = -1
    assert (np.asarray(data["image"]) == 2 * label).all()
    again = pickle.loads(pickle.dumps(crop)).set_random_state(3)(data)
    assert (np.asarray(again["label"]) == np.asarray(done["label"])).all()


def test_boxes_from_the_index_serve_as_well_as_the_label():
    label = label_with((1, cube(3, 9)), (2, cube(10, 12)))
    with_boxes = RandBalancedCropd("image", "label", 6, 1.0, boxes_key="boxes").set_random_state(5)
    without = RandBalancedCropd("image", "label", 6, 1.0).set_random_state(5)
    data = {"image": label, "label": label, "boxes": component_boxes(label)}
    for _ in range(20):
        assert (with_boxes(data)["image"] == without(data)["image"]).all()


def test_the_evaluation_crop_keeps_what_the_reference_keeps():
    recorded = golden("sliding_window")
    for k, shape in enumerate(recorded["shapes"]):
        image = torch.arange(int(np.prod(shape))).reshape(1, *shape)
        kept = recorded[f"crop_{k}"]
        expected = image[(slice(None), *(slice(a, b) for a, b in kept.T))]
        assert torch.equal(CropToStride(8)(image), expected)
        assert torch.equal(CropToStrided(["image"], 8)({"image": image})["image"], expected)


@pytest.mark.parametrize("chain_of", [augmentation, wide_augmentation])
def test_augmentation_gives_patches_and_repeats_itself_from_a_seed(chain_of):
    parameters = PreprocessingParameters(roi_size=(8, 8, 8))
    label = label_with((1, cube(3, 9)))
    data = {"image": label.astype(np.float32), "label": label, "boxes": component_boxes(label)}
    chain = chain_of(parameters, boxes_key="boxes")
    first = [chain.set_random_state(1)(data)["image"] for _ in range(1)]
    again = [chain.set_random_state(1)(data)["image"] for _ in range(1)]
    assert torch.equal(first[0], again[0]) and first[0].shape == (1, 8, 8, 8)


def test_wide_augmentation_rotates_image_and_label_alike():
    """A cube whose image is its label, without the changes of intensity that follow the turning."""
    parameters = PreprocessingParameters(roi_size=(24, 24, 24))
    label = np.zeros((1, 24, 24, 24), np.uint8)
    label[0, 6:18, 6:18, 6:18] = 2
    data = {"image": label.astype(np.float32), "label": label, "boxes": component_boxes(label)}
    chain = wide_augmentation(parameters, boxes_key="boxes").set_random_state(0)
    turning = Compose(chain.transforms[:6]).set_random_state(0)
    turned = [turning(data) for _ in range(12)]
    sizes = [int((sample["label"] == 2).sum()) for sample in turned]
    assert len(set(sizes)) > 3 and min(sizes) > 12**3 * 0.4 and max(sizes) < 12**3 * 2.1
    for sample in turned:
        assert set(sample["label"].unique().tolist()) == {0, 2}
        assert (((sample["image"] > 1) == (sample["label"] > 1)).float().mean()) > 0.97
    assert np.array_equal(data["image"], label) and len({float(chain(data)["image"].mean()) for _ in range(5)}) == 5


def test_flips_and_noise_follow_the_distributions_of_the_reference():
    label = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    label[0, 0, 0, 0] = 1  # a corner, whose place tells how the axes lie
    chain = augmentation(PreprocessingParameters(roi_size=(8, 8, 8))).set_random_state(0)
    flips, sigmas, draws, corners = np.zeros(3), [], 2000, Counter()
    for _ in range(draws):
        done = chain({"image": torch.full((1, 8, 8, 8), 10.0), "label": label})
        flipped = done["label"][0].nonzero()[0].numpy() > 0
        flips += flipped
        corners[int(flipped.sum())] += 1
        if (sigma := float(done["image"].std())) > 1e-4:  # brightness leaves it constant
            sigmas.append(sigma)
    np.testing.assert_allclose(flips / draws, 1 / 3, atol=0.042)  # four standard deviations, as below
    # Each axis for itself: none, one, two, all three.
    np.testing.assert_allclose([corners[n] / draws for n in range(4)], np.array([8, 12, 6, 1]) / 27, atol=0.045)
    assert abs(len(sigmas) / draws - 0.1) < 0.027
    assert 0.085 < max(sigmas) < 0.115 and abs(np.mean(sigmas) - 0.05) < 0.009


def test_brightness_multiplies_by_1_7_to_2_3_as_the_reference_does():
    parameters = PreprocessingParameters(roi_size=(2, 2, 2))
    data = {"image": np.ones((1, 2, 2, 2), np.float32), "label": np.ones((1, 2, 2, 2), np.uint8)}
    chain = augmentation(parameters).set_random_state(0)
    values = np.array([float(chain(data)["image"].median()) for _ in range(600)])
    bright = values[values > 1.4]  # noise alone stays below 1.4
    assert 0.06 < len(bright) / 600 < 0.14
    assert bright.min() > 1.5 and bright.max() < 2.5 and abs(bright.mean() - 2) < 0.1


@pytest.mark.parametrize(
    "wrong", [{"spacing_mm": [1, 2]}, {"hu_window": [5, 1]}, {"roi_size": [0, 1, 1]}, {"overlap": 1.0}, {"spacing": 1}]
)
def test_a_wrong_recipe_is_refused(wrong):
    with pytest.raises(ValueError, match="must be|unknown"):
        PreprocessingParameters.from_dict(wrong)


def test_a_recipe_survives_json():
    import json

    parameters = PreprocessingParameters(spacing_mm=(3.2, 2.4, 2.4), roi_size=(64, 64, 64))
    assert PreprocessingParameters.from_dict(json.loads(json.dumps(parameters.as_dict()))) == parameters
