import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import shared

from kits_unet3d.pipeline.errors import CaseError, UsageError
from kits_unet3d.pipeline.inference import find_scans, read_scan, write_mask

AFFINE = np.array([[0, 0, -0.8, 11.0], [0, -0.8, 0, -7.0], [-3.0, 0, 0, 5.0], [0, 0, 0, 1.0]])


def save(path, voxels, affine=AFFINE, sform=1, qform=0):
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)
    return path


def random_ct(shape=(6, 7, 8)):
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4)])
def test_a_mask_lies_on_the_scans_grid_and_in_its_format(tmp_path, ending, codes):
    nifti = save(tmp_path / "made.nii.gz", random_ct(), sform=codes[0], qform=codes[1])
    path = tmp_path / f"scan{ending}"
    if "nii" in ending:
        nib.save(nib.load(nifti), path)
    else:
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    assert (scan.voxels == random_ct()).all()
    mask = (scan.voxels > 0).astype(np.uint8)
    written = write_mask(mask, scan, tmp_path / "out")
    assert written.name == f"scan_seg{ending}"
    again = read_scan(written)
    assert (again.affine == scan.affine).all() and (again.voxels == mask).all()
    if "nii" in ending:
        before, after = nib.load(path).header, nib.load(written).header
        for field in ("sform_code", "qform_code", "pixdim", "srow_x", "quatern_b", "qoffset_x"):
            assert (before[field] == after[field]).all(), field
        assert after.get_data_dtype() == np.uint8
    assert [p.name for p in (tmp_path / "out").iterdir()] == [written.name]


def test_a_scaled_int16_scan_is_read_in_hu_and_its_mask_is_unscaled(tmp_path):
    image = nib.Nifti1Image(random_ct(), AFFINE)
    image.header.set_slope_inter(2.0, -24.0)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    mask = (scan.voxels > 0).astype(np.uint8)
    assert (read_scan(write_mask(mask, scan, tmp_path / "out")).voxels == mask).all()


@pytest.mark.parametrize(
    ("voxels", "affine", "reason"),
    [
        (np.zeros((4, 4), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 1), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 4, 2), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 4), np.complex64), AFFINE, "no CT"),
        (np.zeros((4, 4, 4), np.int16), np.diag([30.0, 1, 1, 1]), "not believable"),
        (np.zeros((4, 4, 4), np.int16), np.diag([0.0, 1, 1, 1]), "singular"),
    ],
)
def test_what_is_no_ct_is_refused_with_file_and_reason(tmp_path, voxels, affine, reason):
    image = nib.Nifti1Image(voxels, None)
    image.header.set_sform(affine, 1)
    nib.save(image, tmp_path / "odd.nii")
    with pytest.raises(CaseError, match=reason) as caught:
        read_scan(tmp_path / "odd.nii")
    assert "odd.nii" in str(caught.value)


@pytest.mark.parametrize("name", ["broken.nii.gz", "broken.nrrd", "page.html"])
def test_rubbish_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("<html>not found</html>")
    with pytest.raises(CaseError, match=name):
        read_scan(tmp_path / name)


@pytest.mark.parametrize(("ending", "becomes"), [(".mhd", ".mha"), (".nhdr", ".nrrd")])
def test_a_mask_is_one_file_that_can_be_moved(tmp_path, ending, becomes):
    sitk.WriteImage(sitk.ReadImage(str(save(tmp_path / "made.nii.gz", random_ct()))), str(tmp_path / f"scan{ending}"))
    scan = read_scan(tmp_path / f"scan{ending}")
    written = write_mask((scan.voxels > 0).astype(np.uint8), scan, tmp_path / "out")
    assert written.name == f"scan_seg{becomes}" and list((tmp_path / "out").iterdir()) == [written]
    moved = written.rename(tmp_path / f"moved{becomes}")
    assert (read_scan(moved).voxels == (scan.voxels > 0)).all()


def test_a_scan_with_voxels_that_are_no_numbers_is_refused(tmp_path):
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[1, 1, 1] = np.nan
    with pytest.raises(CaseError, match="not finite"):
        read_scan(save(tmp_path / "nan.nii", voxels))


def test_a_folder_gives_its_scans_and_an_empty_one_an_error(tmp_path):
    save(tmp_path / "b.nii.gz", random_ct())
    save(tmp_path / "a.nii", random_ct())
    for other in ("notes.txt", ".part-c.nii.gz", "a_seg.nii"):
        (tmp_path / other).write_text("")
    assert [p.name for p in find_scans(tmp_path)] == ["a.nii", "b.nii.gz"]
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere"):
        with pytest.raises(UsageError, match=missing):
            find_scans(tmp_path / missing)


@pytest.mark.parametrize("name", ["ct/totalsegmentator/example_ct.nii.gz", "ct/slicerio/CTChest4.nrrd"])
def test_real_scans_have_the_geometry_an_independent_reader_sees(name):
    path = shared(f"data/{name}")
    scan, itk = read_scan(path), sitk.ReadImage(str(path))
    assert scan.voxels.shape == itk.GetSize()
    for index in ((0, 0, 0), (5, 9, 3), tuple(n - 1 for n in itk.GetSize())):
        left, posterior, superior = itk.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((scan.affine @ [*index, 1])[:3], (-left, -posterior, superior), atol=1e-3)
        assert scan.voxels[index] == itk[index]


def test_a_real_dicom_folder_is_read_by_positions():
    scan = read_scan(shared("data/ct/dicom_j2k20"))
    assert scan.voxels.shape == (512, 512, 20)
    np.testing.assert_allclose(scan.spacing_mm, (0.977, 0.977, 2.0), atol=1e-3)
