"""The crop's weights of classes and sizes, its margin, and the augmentation that uses it up."""

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from kits_unet3d.transforms import (
    PreprocessingParameters,
    RandBalancedCrop,
    RandBalancedCropd,
    augmentation,
    strong_augmentation,
    wide_augmentation,
)

#: A kidney, and tumours of 512, 27 and 1 voxels, far from each other.
BOXES = {
    1: [((0, 10), (0, 10), (0, 10))],
    2: [((20, 28), (20, 28), (20, 28)), ((40, 43), (40, 43), (40, 43)), ((60, 61), (60, 61), (60, 61))],
}
NUMBERS = {box: number for number, box in enumerate(box for found in BOXES.values() for box in found)}


def drawn(count=4000, boxes=BOXES, **arguments):
    """How often each component is drawn, as a share."""
    crop = RandBalancedCrop(4, 1.0, **arguments).set_random_state(0)
    found = Counter(NUMBERS[crop._box(boxes)] for _ in range(count))
    return [found[number] / count for number in range(4)]


def test_reference_crops_draw_classes_and_two_largest_components_equally():
    assert drawn() == pytest.approx([1 / 2, 1 / 4, 1 / 4, 0], abs=0.03)


def test_without_weights_the_random_numbers_are_used_as_before():
    """The reference's draws, written out: one number, a class, one of two boxes, and a margin for each axis."""
    crop, own = RandBalancedCrop(4, 1.0).set_random_state(5), np.random.RandomState(5)  # noqa: NPY002
    for _ in range(20):
        crop.randomize((64, 64, 64), BOXES)
        own.random_sample()
        box = sorted(BOXES[(1, 2)[own.randint(2)]], key=lambda b: (b[0][1] - b[0][0]) ** 3)[-2:]
        box = box[own.randint(len(box))]
        starts = []
        for start, stop in box:
            below = own.randint(abs(4 - (stop - start)))
            low = max(0, start - below) if stop - start <= 4 else max(0, start + below)
            starts.append(low)
        assert crop.start == tuple(starts)


def test_class_weights_say_how_often_each_class_present_is_drawn():
    assert drawn(class_weights=[1.0, 3.0])[0] == pytest.approx(1 / 4, abs=0.03)
    assert drawn(class_weights=[0.0, 3.0])[0] == 0
    assert drawn(boxes={1: BOXES[1]}, class_weights=[1.0, 3.0])[0] == 1  # of those present


def test_a_power_of_the_size_draws_among_all_components_but_specks():
    # 512 ** -⅓ : 27 ** -⅓ = 1/8 : 1/3
    parts = np.array([1 / 8, 1 / 3])
    got = drawn(class_weights=[0.0, 1.0], component_power=-1 / 3)
    assert got == pytest.approx([0, *parts / parts.sum(), 0], abs=0.03)
    assert drawn(class_weights=[0.0, 1.0], component_power=0.0) == pytest.approx([0, 1 / 2, 1 / 2, 0], abs=0.03)


def test_a_class_that_has_only_specks_is_drawn_by_them():
    small_components = {1: BOXES[1], 2: BOXES[2][2:]}
    assert drawn(boxes=small_components, class_weights=[1.0, 1.0], component_power=-0.3) == pytest.approx(
        [0.5, 0, 0, 0.5], abs=0.03
    )


def test_where_no_class_may_be_drawn_the_patch_is_anywhere():
    crop = RandBalancedCrop(4, 1.0, class_weights=[0.0, 1.0]).set_random_state(0)
    starts = set()
    for _ in range(50):
        crop.randomize((64, 64, 64), {1: BOXES[1]})
        starts.add(crop.start)
    assert len(starts) == 50 and max(max(s) for s in starts) > 30


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"class_weights": [-1.0]}, "class_weights must be"),
        ({"class_weights": []}, "class_weights must be"),
        ({"component_power": float("nan")}, "component_power must be"),
        ({"margin": -1}, "margin must not be negative"),
    ],
)
def test_weights_out_of_range_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        RandBalancedCrop(4, **wrong)


def test_a_class_without_a_weight_is_named():
    with pytest.raises(ValueError, match="for classes 1 to 2"):
        drawn(1, class_weights=[1.0])


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, MetaTensor])
def test_a_margin_is_what_lies_around_and_the_border_repeated_beyond(make):
    volume = np.arange(6 * 5 * 5, dtype=np.float32).reshape(1, 6, 5, 5)
    crop = RandBalancedCrop((2, 2, 2), margin=(1, 2, 0))
    crop.start = (0, 3, 1)
    patch = crop.crop(make(volume))
    expected = np.pad(volume, [(0, 0), (1, 0), (0, 2), (0, 0)], mode="edge")[:, 0:4, 1:7, 1:3]
    assert tuple(patch.shape) == (1, 4, 6, 2)
    np.testing.assert_array_equal(np.asarray(patch), expected)
    if isinstance(patch, MetaTensor):
        assert patch.affine[:3, 3].tolist() == [-1, 1, 1]


@pytest.mark.parametrize("chain", [augmentation, strong_augmentation])
def test_the_crops_weights_reach_it_from_a_chain(chain):
    made = chain(PreprocessingParameters(), class_weights=[1.0, 2.0], component_power=-0.5)
    (crop,) = (t.cropper for t in made.transforms if isinstance(t, RandBalancedCropd))
    assert crop.class_weights == (1.0, 2.0) and crop.component_power == -0.5


def volume(size=(48, 56, 56)):
    generator = np.random.default_rng(0)
    label = np.zeros((1, *size), np.uint8)
    label[0, 10:30, 10:30, 10:30] = 1
    label[0, 15:20, 15:20, 15:20] = 2
    image = generator.normal(0, 0.3, label.shape).astype(np.float32) + label
    return {"image": image, "label": label}


def test_strong_augmentation_keeps_the_patch_size_and_its_input():
    data = volume()
    kept = {key: value.copy() for key, value in data.items()}
    chain = strong_augmentation(PreprocessingParameters(roi_size=(24, 32, 32)), foreground_probability=1.0)
    sums = set()
    for seed in range(12):
        chain.set_random_state(seed)
        done = chain(data)
        assert done["image"].shape == done["label"].shape == (1, 24, 32, 32)
        assert torch.isfinite(torch.as_tensor(done["image"])).all()
        assert set(np.unique(done["label"])) <= {0, 1, 2}
        assert np.asarray(done["label"]).dtype == np.uint8 and np.asarray(done["image"]).dtype == np.float32
        sums.add(float(done["image"].sum()))
    assert len(sums) == 12
    again = []
    for chain_seed in (3, 3, 4):
        chain.set_random_state(chain_seed)
        again.append(float(chain(data)["image"].sum()))
    assert again[0] == again[1] != again[2]
    assert all(np.array_equal(data[key], kept[key]) for key in data)


def test_strong_augmentation_moves_image_and_label_alike():
    data = volume()
    data["image"] = data["label"].astype(np.float32)
    chain = strong_augmentation(PreprocessingParameters(roi_size=(24, 32, 32)), foreground_probability=1.0)
    moved = 0
    for seed in range(8):
        chain.set_random_state(seed)
        done = chain(data)
        image, label = np.asarray(done["image"]), np.asarray(done["label"])
        if (label > 0).any():
            inside, outside = image[label > 0].mean(), image[label == 0].mean()
            assert inside > outside + 0.5
            moved += 1
    assert moved >= 6


@pytest.mark.parametrize("chain", [augmentation, strong_augmentation, wide_augmentation])
def test_what_a_data_worker_makes_of_a_chain_goes_into_batches(chain):
    """A worker stacks a batch into memory of the first patch's type, where another type is an error."""
    made = chain(PreprocessingParameters(roi_size=(24, 32, 32)), foreground_probability=1.0).set_random_state(0)
    loader = DataLoader(Dataset([volume()] * 16, made), batch_size=2, num_workers=1)
    batches = [(batch["image"].dtype, batch["label"].dtype, batch["label"].shape) for batch in loader]
    assert len(batches) == 8 and len(set(batches)) == 1
    assert batches[0][2] == (2, 1, 24, 32, 32)
