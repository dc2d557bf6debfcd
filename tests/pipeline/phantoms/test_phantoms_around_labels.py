"""Phantoms around label maps: the map is kept, and the body fits its kidneys."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from phantom_cases import best_window, two_kidneys

from kits_unet3d.pipeline.phantoms import phantom_around
from kits_unet3d.pipeline.phantoms.kidneys import CYST, KIDNEY, TUMOUR

REAL_LABELS = SHARED / "data" / "kits19_labels"


def test_no_single_window_finds_real_kidneys_in_their_phantoms():
    names = ("case_00021", "case_00030", "case_00110")
    paths = [REAL_LABELS / name / "segmentation.nii.gz" for name in names]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"KiTS19 label files not found in {REAL_LABELS}")
    made = []
    for seed, path in enumerate(paths):
        image = nib.load(path)
        # Every other row and column: quicker, and the anatomy is the same.
        label = np.asanyarray(image.dataobj)[:, ::2, ::2]
        phantom = phantom_around(label, image.affine @ np.diag([1, 2, 2, 1]), seed)
        np.testing.assert_array_equal(phantom.label, label)
        made.append(phantom)
    assert best_window(made, (KIDNEY, TUMOUR)) < 0.5
    assert best_window(made, (TUMOUR,)) < 0.3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_phantom_around_keeps_label_and_affine(dtype):
    label, affine = two_kidneys()
    phantom = phantom_around(label.astype(dtype), affine, 3)
    np.testing.assert_array_equal(phantom.label, label)
    np.testing.assert_array_equal(phantom.affine, affine)
    assert phantom.label.dtype == np.uint8 and phantom.voxels.shape == label.shape


def test_phantom_around_puts_the_organs_around_the_kidneys():
    label, affine = two_kidneys()
    voxels = phantom_around(label, affine, 3).voxels.astype(np.float32)
    middle = voxels[14:26]
    spine = middle[:, 85:100, 92:100]
    beside = middle[:, 0:8, 92:100]
    assert np.median(voxels[label == KIDNEY]) > 110
    assert np.median(spine) > 60
    assert np.median(beside) < -900


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_single_kidney_gets_a_whole_torso(side):
    label, affine = two_kidneys(tumour=False)
    half = slice(0, 96) if side == "left" else slice(96, None)
    label[:, :, half] = 0
    phantom = phantom_around(label, affine, 1)
    np.testing.assert_array_equal(phantom.label, label)
    assert (phantom.voxels[20] > -200).mean() > 0.25


def test_kidneys_joined_in_one_component_are_no_obstacle():
    label, affine = two_kidneys()
    label[18:22, 90:96, 60:130] = KIDNEY
    assert phantom_around(label, affine, 1).voxels.shape == label.shape


def test_cysts_of_a_label_map_are_darker_than_its_kidneys_and_tumours():
    label, affine = two_kidneys()
    label[18:22, 85:95, 60:70] = CYST
    label[20, 100, 72] = CYST  # between the voxels of the model
    with pytest.raises(ValueError, match="0, 1, 2, got uint8 from 0 to 3; label cysts with --cysts"):
        phantom_around(label, affine, 5)
    made = phantom_around(label, affine, 1, cysts=True)
    assert np.array_equal(made.label, label)
    cyst, tumour, kidney = (made.voxels[label == value].mean() for value in (CYST, TUMOUR, KIDNEY))
    assert cyst < 25 < tumour < kidney


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda label, affine: (label[0], affine), "3 dimensions"),
        (lambda label, affine: (label * 3, affine), "0, 1, 2"),
        (lambda label, affine: (label.astype(np.float32) / 2, affine), "0, 1, 2"),
        (lambda label, affine: (label * 0, affine), "no kidney"),
        (lambda label, affine: (label, np.eye(4)), "IPL"),
        (lambda label, affine: (label, np.eye(3)), "4 x 4"),
    ],
)
def test_phantom_around_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        phantom_around(*change(*two_kidneys()), 0)
