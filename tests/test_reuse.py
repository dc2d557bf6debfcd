"""The transforms and the network in other people's projects: what docs/reuse.md shows and promises."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd

from kits_unet3d.transforms import (
    CropToStride,
    CropToStrided,
    RandBalancedCrop,
    RandBalancedCropd,
    ResampleToSpacing,
    ResampleToSpacingd,
)

EXAMPLES = re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", (ROOT / "docs" / "reuse.md").read_text(), re.M | re.S)
AFFINE = torch.tensor([[0.0, 2, 0, 5], [-3, 0, 0, 6], [0, 0, 1.5, -7], [0, 0, 0, 1]], dtype=torch.float64)
KINDS = {
    "numpy": np.array,
    "torch": lambda a: torch.from_numpy(a.copy()),
    "meta": lambda a: MetaTensor(torch.from_numpy(a.copy()), affine=AFFINE),
}
TYPES = ["uint8", "int16", "int32", "float32", "float64"]


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_the_examples_run_as_they_stand_in_the_document(title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"docs/reuse.md: {title}", "exec"), {"__name__": "example"})


def test_all_three_examples_were_found():
    assert len(EXAMPLES) == 3


def volume(dtype: str) -> np.ndarray:
    values = np.zeros((1, 12, 14, 10), dtype)
    values[0, 3:7, 4:9, 2:6] = 1
    values[0, 8:10, 2:4, 7:9] = 2
    return values


#: Array form, dictionary form on the keys of somebody else, and whether the number type is kept.
PAIRS = {
    "resample": (
        lambda: lambda x: ResampleToSpacing((2.0, 1.0, 1.0))(x, (3.0, 2.0, 1.5)),
        lambda: ResampleToSpacingd(("ct", "organs"), (2.0, 1.0, 1.0), source_key="mm"),
        False,
    ),
    "balanced": (
        lambda: lambda x: RandBalancedCrop((4, 6, 5), 1.0).set_random_state(4)(x, x)[0],
        lambda: RandBalancedCropd(("ct", "organs"), "organs", (4, 6, 5), 1.0).set_random_state(4),
        True,
    ),
    "evaluation": (lambda: CropToStride(8), lambda: CropToStrided(("ct", "organs"), 8), True),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PAIRS)
def test_array_and_dictionary_forms_agree_on_every_kind_of_array(name, kind, dtype):
    array_form, dictionary_form, keeps_type = PAIRS[name]
    given = KINDS[kind](volume(dtype))
    data = {"ct": given, "organs": KINDS[kind](volume(dtype)), "mm": (3.0, 2.0, 1.5), "note": "kept"}
    before = copy.deepcopy(data)
    done, alone = pickle.loads(pickle.dumps(dictionary_form()))(data), array_form()(given)
    expected = np.asarray(array_form()(volume(dtype)))
    assert np.array_equal(np.asarray(done["ct"]), np.asarray(alone)) and np.array_equal(np.asarray(alone), expected)
    assert np.asarray(done["ct"]).dtype == (np.dtype(dtype) if keeps_type else np.float32)
    assert done["note"] == "kept" and not np.array_equal(np.asarray(done["ct"]), np.asarray(given))
    done["ct"][...] = 77  # what comes out is not a view of what went in
    for key in ("ct", "organs"):
        assert type(data[key]) is type(before[key]) and np.array_equal(np.asarray(data[key]), np.asarray(before[key]))
        if kind == "meta":
            assert torch.equal(data[key].affine, AFFINE) and not data[key].applied_operations
            assert not data[key].pending_operations


def test_an_image_already_at_the_wanted_voxel_size_is_still_a_new_one():
    image = torch.ones(1, 4, 4, 4)
    ResampleToSpacing((1.0, 1.0, 1.0))(image, (1.0, 1.0, 1.0))[...] = 77
    assert (image == 1).all()


def test_a_patch_knows_where_it_was_taken():
    image = MetaTensor(torch.from_numpy(volume("float32")), affine=AFFINE)
    crop = RandBalancedCrop((4, 6, 5), 1.0).set_random_state(4)
    patch, _ = crop(image, image)
    first = AFFINE @ torch.tensor([*crop.start, 1.0], dtype=torch.float64)
    torch.testing.assert_close(patch.affine[:, 3], first)
    assert any(crop.start) and torch.equal(patch.affine[:3, :3], AFFINE[:3, :3])


def test_a_seed_given_to_the_chain_reaches_the_crop():
    data = {"ct": volume("float32"), "organs": volume("uint8")}
    chain = Compose([RandBalancedCropd(("ct", "organs"), "organs", 4, 0.5)])

    def patches(seed):
        chain.set_random_state(seed)
        return [np.asarray(chain(data)["ct"]) for _ in range(12)]

    first, again, other = patches(1), patches(1), patches(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not all(np.array_equal(first[0], patch) for patch in first)


@pytest.mark.parametrize(
    "last",
    [RandBalancedCropd(("ct", "organs"), "organs", 6, 1.0), CropToStrided(("ct", "organs"), 8)],
    ids=["balanced", "evaluation"],
)
def test_in_a_lazy_chain_what_was_collected_is_done_before_a_crop(last):
    affine = torch.diag(torch.tensor([3.0, 2.0, 1.5, 1.0], dtype=torch.float64))
    data = {key: MetaTensor(torch.from_numpy(volume("float32")), affine=affine) for key in ("ct", "organs")}
    steps = [
        ResampleToSpacingd(("ct", "organs"), (1.5, 1.0, 1.5), "nearest"),
        Flipd(("ct", "organs"), spatial_axis=0),
        last,
    ]
    collected = Compose(steps[:2], lazy=True)(data)
    expected = Compose(last).set_random_state(3)(collected)["organs"]
    lazy = Compose(steps, lazy=True).set_random_state(3)(data)["organs"]
    assert lazy.max() > 0 and torch.equal(lazy.as_tensor(), expected.as_tensor()) and not lazy.pending_operations
    torch.testing.assert_close(lazy.affine, expected.affine, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
def test_resampling_of_a_whole_chain_inverts_to_the_old_grid(mode):
    image = MetaTensor(torch.from_numpy(volume("float32")), affine=AFFINE)
    chain = Compose([ResampleToSpacingd("ct", (1.5, 1.0, 1.0), mode), Flipd("ct", spatial_axis=1)])
    back = chain.inverse(chain({"ct": image}))["ct"]
    assert back.shape == image.shape and not back.applied_operations
    torch.testing.assert_close(back.affine, AFFINE, atol=1e-9, rtol=0)
    assert float(((back > 0.5) == (image > 0.5)).float().mean()) > 0.9


def test_transforms_ending_in_the_evaluation_crop_invert_to_the_old_grid():
    image = MetaTensor(torch.from_numpy(volume("float32")), affine=AFFINE)
    chain = Compose([ResampleToSpacingd("ct", (1.5, 1.0, 1.0), "nearest"), CropToStrided("ct", 9)])
    cut = chain({"ct": image})
    assert cut["ct"].shape != ResampleToSpacing((1.5, 1.0, 1.0))(image).shape
    back = chain.inverse(cut)["ct"]
    assert back.shape == image.shape and not back.applied_operations
    torch.testing.assert_close(back.affine, AFFINE, atol=1e-9, rtol=0)
    alone = CropToStride(9)
    assert alone.inverse(alone(image)).shape == image.shape


def test_tensors_stay_on_their_device():
    """The meta device knows shapes only, so whatever fell back to the CPU would fail."""
    image = torch.zeros(1, 12, 14, 10, device="meta")
    boxes = {1: [((3, 7), (4, 9), (2, 6))]}
    assert RandBalancedCrop(4)(image, image, boxes)[0].device.type == "meta"
    assert CropToStride(5)(image).device.type == "meta"
    for mode in ("trilinear", "nearest"):
        resampled = ResampleToSpacing((2.0, 1.0, 1.0), mode)(image, (3.0, 2.0, 1.5))
        assert resampled.device.type == "meta" and resampled.shape == (1, 18, 28, 15)
