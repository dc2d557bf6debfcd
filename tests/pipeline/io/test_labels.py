"""Label maps of every kind that programs leave."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import shared

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.runtime.errors import CaseError

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def label_map(shape=(6, 7, 8), high=3, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape)


def nifti(path, values, dtype, slope=None):
    image = nib.Nifti1Image(values.astype(dtype), AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_labels_are_read_whatever_type_they_are_stored_in(tmp_path, dtype):
    values = label_map()
    read = read_labels(nifti(tmp_path / "a.nii.gz", values, dtype))
    assert read.voxels.dtype == np.uint8 and np.array_equal(read.voxels, values)
    assert np.allclose(read.affine, AFFINE) and read.spacing_mm == (2.0, 2.0, 3.0)


def test_label_values_above_100_and_above_255_are_read(tmp_path):
    values = label_map(high=118)
    assert np.array_equal(read_labels(nifti(tmp_path / "a.nii.gz", values, np.uint8)).voxels, values)
    values = label_map(high=1000)
    read = read_labels(nifti(tmp_path / "b.nii.gz", values, np.uint16))
    assert read.voxels.dtype == np.uint16 and np.array_equal(read.voxels, values)


def test_floats_close_to_whole_numbers_are_rounded(tmp_path):
    values = label_map()
    noise = np.random.default_rng(1).uniform(-9e-4, 9e-4, values.shape)
    assert np.array_equal(read_labels(nifti(tmp_path / "a.nii.gz", values + noise, np.float32)).voxels, values)


@pytest.mark.parametrize("high", [3, 256, 1000])
def test_integers_scaled_over_their_whole_range_are_read(tmp_path, high):
    values = label_map(high=high)
    image = nib.Nifti1Image(values.astype(np.float64), AFFINE)
    image.set_data_dtype(np.uint16)  # nibabel scales floats over all of its values
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").dataobj.slope != 1
    assert np.array_equal(read_labels(tmp_path / "a.nii.gz").voxels, values)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_labels_in_itks_formats_are_read(tmp_path, ending):
    values = label_map(high=200)
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0).astype(np.uint8))
    image.SetSpacing((2.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    assert np.array_equal(read_labels(tmp_path / f"a{ending}").voxels, values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (label_map() + 0.3, "labels are whole numbers"),
        (np.where(label_map() == 1, np.nan, 1.0), "labels are whole numbers"),
        (label_map() - 1.0, "name a label map, not a scan"),
        (label_map() * 1e6, "name a label map, not a scan"),
    ],
)
def test_other_values_are_refused_with_the_reason(tmp_path, values, reason):
    with pytest.raises(CaseError, match=f"a.nii.gz: .*{reason}"):
        read_labels(nifti(tmp_path / "a.nii.gz", values, np.float32))


def test_masks_and_ground_truths_with_large_ids_are_scored(tmp_path, capsys):
    """TotalSegmentator's classes go beyond 100, where a reader of CT would miss the air."""
    values = np.zeros((8, 8, 8))
    values[2:5, 2:5, 2:5] = 104
    for directory, dtype in (("masks", np.uint8), ("ground_truth", np.float32)):
        (tmp_path / directory).mkdir()
        nifti(tmp_path / directory / "a.nii.gz", values, dtype)
    arguments = ["--predictions", str(tmp_path / "masks"), "--labels", str(tmp_path / "ground_truth")]
    assert main(["evaluate", *arguments, "--structures", "vertebra=104"]) == 0
    assert "vertebra dice 1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["example_seg_fast_force_split", "example_seg"])
def test_real_label_maps_of_many_organs_are_read(name):
    path = shared(f"data/ct/totalsegmentator/{name}.nii.gz")
    expected = np.asanyarray(nib.load(path).dataobj)
    assert np.array_equal(read_labels(path).voxels, expected)
