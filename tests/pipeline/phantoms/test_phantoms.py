"""Phantoms with simulated kidneys: layout, anatomy's numbers, and that no threshold solves them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from phantom_cases import SMALL, TINY, best_window
from scipy import ndimage

from kits_unet3d.pipeline.phantoms import Phantom, make_phantom
from kits_unet3d.pipeline.phantoms.case import draw_spacing
from kits_unet3d.pipeline.phantoms.kidneys import CYST, KIDNEY, TUMOUR, Kidneys
from kits_unet3d.pipeline.phantoms.torso import Torso


def volume_ml(phantom: Phantom, value: int) -> float:
    return float((phantom.label == value).sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(seed, **SMALL) for seed in range(3)]


def test_phantom_has_the_layout_of_kits19(phantoms):
    phantom = phantoms[0]
    assert phantom.voxels.dtype == np.int16
    assert phantom.label.dtype == np.uint8
    assert phantom.affine.dtype == np.float64
    assert phantom.voxels.shape == phantom.label.shape == SMALL["shape"]
    assert nib.aff2axcodes(phantom.affine) == ("I", "P", "L")
    np.testing.assert_allclose(nib.affines.voxel_sizes(phantom.affine), SMALL["spacing_mm"])
    np.testing.assert_array_equal(phantom.affine[:, 3], (0, 0, 0, 1))


def test_every_phantom_has_kidney_tumour_and_air(phantoms):
    for phantom in phantoms:
        assert set(np.unique(phantom.label)) == {0, KIDNEY, TUMOUR}
        assert phantom.voxels.min() >= -1024
        assert np.median(phantom.voxels[:, 0]) < -950


def test_tissues_have_the_brightness_of_an_enhanced_scan(phantoms):
    kidney = [np.median(p.voxels[p.label == KIDNEY]) for p in phantoms]
    tumour = [np.median(p.voxels[p.label == TUMOUR]) for p in phantoms]
    assert min(kidney) > 110 and max(kidney) < 230
    assert min(tumour) > 0 and max(tumour) < 200


def test_same_seed_gives_the_same_phantom_and_another_seed_does_not():
    first, again, other = (make_phantom(seed, **TINY) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.voxels, again.voxels)
    np.testing.assert_array_equal(first.label, again.label)
    assert (first.voxels != other.voxels).any()


def test_any_grid_samples_the_same_patient(phantoms):
    finer = make_phantom(1, shape=(64, 120, 144), spacing_mm=(5.0, 3.0, 2.5))
    for value in (KIDNEY, TUMOUR):
        assert volume_ml(finer, value) == pytest.approx(volume_ml(phantoms[1], value), rel=0.06)


def test_a_short_field_is_centred_on_the_kidneys():
    phantom = make_phantom(2, shape=(56, 64, 96), spacing_mm=(4.0, 3.0, 3.0))
    assert volume_ml(phantom, KIDNEY) > 257
    inside = np.argwhere(phantom.label == KIDNEY)
    assert (inside.min(0) > 0).all() and (inside.max(0) < np.array(phantom.label.shape) - 1).all()


def test_volumes_stay_in_the_range_of_kits19():
    drawn = [Kidneys.draw(np.random.default_rng([seed, 1])) for seed in range(24)]
    kidneys = np.array([k.volume_ml(KIDNEY) for k in drawn])
    tumours = np.array([k.volume_ml(TUMOUR) for k in drawn])
    assert kidneys.min() >= 257 and kidneys.max() <= 765
    assert 360 < np.median(kidneys) < 480
    assert tumours.min() >= 1 and tumours.max() <= 737
    assert 15 < np.median(tumours) < 60


def test_spacings_are_spread_as_in_kits19():
    rngs = [np.random.default_rng([seed, 0]) for seed in range(200)]
    spacings = np.array([draw_spacing(rng, Torso.draw(rng)) for rng in rngs])
    assert spacings[:, 0].min() >= 0.5 and spacings[:, 0].max() == 5.0
    assert 0.3 < (spacings[:, 0] == 5.0).mean() < 0.52
    assert spacings[:, 1].min() >= 0.438 and spacings[:, 1].max() <= 1.041
    assert 0.70 < np.median(spacings[:, 1]) < 0.86
    np.testing.assert_array_equal(spacings[:, 1], spacings[:, 2])


def test_no_single_window_finds_kidney_or_tumour(phantoms):
    assert best_window(phantoms, (KIDNEY, TUMOUR)) < 0.5
    assert best_window(phantoms, (KIDNEY,)) < 0.5
    assert best_window(phantoms, (TUMOUR,)) < 0.3


def test_cysts_are_a_class_of_their_own_and_hold_water(tmp_path):
    drawn = [make_phantom(seed, **SMALL, cysts=True) for seed in range(3)]
    large = [phantom.voxels[ndimage.binary_erosion(phantom.label == CYST)] for phantom in drawn]
    assert sum(map(len, large)) > 500 and -5 < np.median(np.concatenate(large)) < 25
    for seed, phantom in enumerate(drawn):
        without = make_phantom(seed, **SMALL)
        assert without.label.max() == TUMOUR
        assert np.array_equal(without.label == TUMOUR, phantom.label == TUMOUR)
        assert (phantom.label[without.label == KIDNEY] != 0).all()


@pytest.mark.parametrize(
    "arguments",
    [{"shape": (0, 8, 8)}, {"shape": (8, 8)}, {"spacing_mm": (1, 1)}, {"spacing_mm": (1, 1, -1)}],
)
def test_make_phantom_rejects_an_impossible_grid(arguments):
    with pytest.raises(ValueError, match="must be 3 positive"):
        make_phantom(0, **{**TINY, **arguments})


def test_make_phantom_rejects_a_negative_seed():
    with pytest.raises(ValueError, match="seed must not be negative"):
        make_phantom(-1)
