"""The phantom generator: layout, anatomy's numbers, and that no threshold solves what it makes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scipy import ndimage

from kits_unet3d.pipeline.data import classes_in
from kits_unet3d.pipeline.phantoms import Phantom, make_phantom, phantom_around, write_dataset
from kits_unet3d.pipeline.phantoms.case import draw_spacing, ipl_affine
from kits_unet3d.pipeline.phantoms.kidneys import CYST, KIDNEY, TUMOUR, Kidneys
from kits_unet3d.pipeline.phantoms.torso import Torso

SMALL = {"shape": (96, 192, 192), "spacing_mm": (4.0, 2.0, 2.0)}
TINY = {"shape": (20, 40, 40), "spacing_mm": (8.0, 8.0, 8.0)}
REAL_LABELS = SHARED / "data" / "kits19_labels"


def two_kidneys(*, tumour: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A hand-made label map: two balls 120 mm apart, and a smaller one on the left kidney."""
    spacing = (5.0, 2.0, 2.0)
    z, y, x = np.ogrid[:40, :160, :192]
    label = np.zeros((40, 160, 192), np.uint8)
    for centre in (132, 252):
        distance = ((z * 5 - 100) / 50) ** 2 + ((y * 2 - 190) / 26) ** 2 + ((x * 2 - centre) / 27) ** 2
        label[distance < 1] = KIDNEY
    if tumour:
        label[(z * 5 - 110) ** 2 + (y * 2 - 170) ** 2 + (x * 2 - 275) ** 2 < 20**2] = TUMOUR
    return label, ipl_affine(spacing)


def best_window(phantoms: list[Phantom], classes: tuple[int, ...]) -> float:
    """The highest Dice that one HU window can reach over all the voxels of all the phantoms."""
    edges = np.arange(-200, 505, 5)
    inside, everything, total = np.zeros(edges.size), np.zeros(edges.size), 0
    for phantom in phantoms:
        mask = np.isin(phantom.label, classes)
        inside[1:] += np.histogram(phantom.voxels[mask], edges)[0]
        everything[1:] += np.histogram(phantom.voxels, edges)[0]
        total += int(mask.sum())
    hits, claimed = inside.cumsum(), everything.cumsum()
    low, high = np.triu_indices(edges.size, 1)
    dice = 2 * (hits[high] - hits[low]) / (total + claimed[high] - claimed[low])
    return float(dice.max())


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


def digest(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*.nii.gz") if p.is_file())
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_dataset_has_kits19_files_and_does_not_depend_on_count_or_workers(tmp_path):
    seen = []
    directories = write_dataset(tmp_path / "a", 1, seed=4, progress=lambda *news: seen.append(news), **TINY)
    assert [f.name for f in directories] == ["case_00000"]
    assert seen == [("case_00000", 1, 1)]
    write_dataset(tmp_path / "b", 2, seed=4, workers=2, **TINY)
    few, many = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert set(few) == {f"case_00000/{name}.nii.gz" for name in ("imaging", "segmentation")}
    assert few.items() <= many.items()
    assert many["case_00000/imaging.nii.gz"] != many["case_00001/imaging.nii.gz"]
    image = nib.load(directories[0] / "imaging.nii.gz")
    label = nib.load(directories[0] / "segmentation.nii.gz")
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    assert int(image.header["sform_code"]) > 0
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    np.testing.assert_array_equal(image.affine, label.affine)
    np.testing.assert_allclose(image.header.get_zooms(), TINY["spacing_mm"])


def test_rerun_keeps_finished_cases_and_completes_an_interrupted_one(tmp_path):
    write_dataset(tmp_path, 2, **TINY)
    whole = digest(tmp_path)
    finished = tmp_path / "case_00000" / "imaging.nii.gz"
    stamp = finished.stat().st_mtime_ns
    (tmp_path / "case_00001" / "imaging.nii.gz").unlink()
    leftover = tmp_path / "case_00001" / ".part-imaging.nii.gz"
    leftover.write_bytes(b"half a file")
    write_dataset(tmp_path, 2, **TINY)
    assert not leftover.exists()
    assert finished.stat().st_mtime_ns == stamp
    assert digest(tmp_path) == whole


def test_dataset_around_labels_keeps_names_voxels_and_affines(tmp_path):
    label, affine = two_kidneys()
    for number in (7, 12):
        directory = tmp_path / "labels" / f"case_{number:05d}"
        directory.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label.astype(np.uint16), affine), directory / "segmentation.nii.gz")
    directories = write_dataset(tmp_path / "out", None, labels=tmp_path / "labels")
    assert [f.name for f in directories] == ["case_00007", "case_00012"]
    assert len(write_dataset(tmp_path / "out", 1, labels=tmp_path / "labels")) == 1
    source = nib.load(tmp_path / "labels" / "case_00012" / "segmentation.nii.gz")
    written = nib.load(directories[1] / "segmentation.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), label)
    np.testing.assert_array_equal(written.affine, source.affine)


def test_training_labels_get_several_bodies_and_evaluation_labels_one(tmp_path):
    label, affine = two_kidneys()
    for number in (0, 4):  # KiTS19 evaluates on case 0
        directory = tmp_path / "labels" / f"case_{number:05d}"
        directory.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label, affine), directory / "segmentation.nii.gz")
    directories = write_dataset(tmp_path / "out", labels=tmp_path / "labels", bodies=3)
    assert [f.name for f in directories] == ["case_00000", "case_00004", "case_10004", "case_20004"]
    split = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert split["evaluation"] == ["case_00000"] and split["training"] == ["case_00004", "case_10004", "case_20004"]
    images, labels = (
        [(directory / f"{name}.nii.gz").read_bytes() for directory in directories[1:]]
        for name in ("imaging", "segmentation")
    )
    assert len(set(images)) == 3 and len(set(labels)) == 1
    with pytest.raises(ValueError, match="bodies must be"):
        write_dataset(tmp_path / "none", 2, bodies=2)


def test_other_settings_into_the_same_directory_are_refused(tmp_path):
    write_dataset(tmp_path, 1, **TINY)
    with pytest.raises(ValueError, match="choose another directory"):
        write_dataset(tmp_path, 1, seed=5, **TINY)


def test_write_dataset_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="cases must be at least 1"):
        write_dataset(tmp_path, 0)
    with pytest.raises(ValueError, match="cases must be given"):
        write_dataset(tmp_path)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        write_dataset(tmp_path, 1, workers=0)
    with pytest.raises(ValueError, match="no case_XXXXX"):
        write_dataset(tmp_path / "out", labels=tmp_path)
    with pytest.raises(ValueError, match="come from the label maps"):
        write_dataset(tmp_path / "out", labels=tmp_path, shape=(8, 8, 8))


def test_cysts_are_a_class_of_their_own_and_hold_water(tmp_path):
    drawn = [make_phantom(seed, **SMALL, cysts=True) for seed in range(3)]
    large = [phantom.voxels[ndimage.binary_erosion(phantom.label == CYST)] for phantom in drawn]
    assert sum(map(len, large)) > 500 and -5 < np.median(np.concatenate(large)) < 25
    for seed, phantom in enumerate(drawn):
        without = make_phantom(seed, **SMALL)
        assert without.label.max() == TUMOUR
        assert np.array_equal(without.label == TUMOUR, phantom.label == TUMOUR)
        assert (phantom.label[without.label == KIDNEY] != 0).all()


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


def test_phantoms_around_kits23_name_its_four_classes(tmp_path):
    label, affine = two_kidneys()
    for number, value in ((4, KIDNEY), (7, CYST)):
        label[18:22, 85:95, 60:70] = value
        path = tmp_path / "labels" / f"case_{number:05d}" / "segmentation.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label, affine), path)
    write_dataset(tmp_path / "out", labels=tmp_path / "labels")
    assert classes_in(tmp_path / "out") == ("background", "kidney", "tumour", "cyst")
    assert classes_in(tmp_path / "labels") == classes_in(tmp_path / "out")
    write_dataset(tmp_path / "drawn", 1, **TINY)
    assert "classes" not in json.loads((tmp_path / "drawn" / "dataset.json").read_text())
