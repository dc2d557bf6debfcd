import gzip
import os
import re

import nibabel as nib
import niftis
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import shared
from dicoms import write_series

from kits_unet3d.pipeline.inference import Grid, ReadOptions, find_scans, read_scan, write_mask
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError

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
    written = write_mask(mask, scan.grid, tmp_path / "out")
    assert written.name == f"scan_seg{ending}"
    again = read_labels(written)
    assert (again.affine == scan.affine).all() and (again.voxels == mask).all()
    if "nii" in ending:
        before, after = nib.load(path).header, nib.load(written).header
        for field in ("sform_code", "qform_code", "pixdim", "srow_x", "quatern_b", "qoffset_x"):
            assert (before[field] == after[field]).all(), field
        assert after.get_data_dtype() == np.uint8
    assert [p.name for p in (tmp_path / "out").iterdir()] == [written.name]


def test_a_scaled_int16_scan_is_read_in_hu_and_its_mask_is_unscaled(tmp_path):
    image = nib.Nifti1Image(random_ct(), AFFINE)
    image.header.set_slope_inter(0.5, -24.0)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    mask = (scan.voxels > 0).astype(np.uint8)
    assert (read_labels(write_mask(mask, scan.grid, tmp_path / "out")).voxels == mask).all()


@pytest.mark.parametrize(
    ("voxels", "affine", "reason"),
    [
        (np.zeros((4, 4), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 1), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 4, 2), np.int16), AFFINE, "three axes"),
        (np.zeros((4, 4, 4), np.complex64), AFFINE, "complex"),
        (np.zeros((4, 4, 4), np.int16), np.diag([30.0, 1, 1, 1]), "not plausible"),
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
    written = write_mask((scan.voxels > 0).astype(np.uint8), scan.grid, tmp_path / "out")
    assert written.name == f"scan_seg{becomes}" and list((tmp_path / "out").iterdir()) == [written]
    moved = written.rename(tmp_path / f"moved{becomes}")
    assert (read_labels(moved).voxels == (scan.voxels > 0)).all()


def test_a_scan_with_voxels_that_are_no_numbers_is_refused(tmp_path):
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[1, 1, 1] = np.nan
    with pytest.raises(CaseError, match="not finite"):
        read_scan(save(tmp_path / "nan.nii", voxels))


def test_a_directory_gives_its_scans_and_an_empty_one_an_error(tmp_path):
    save(tmp_path / "b.nii.gz", random_ct())
    save(tmp_path / "a.nii", random_ct())
    for other in ("notes.txt", ".part-c.nii.gz", "a_seg.nii"):
        (tmp_path / other).write_text("")
    assert [p.path.name for p in find_scans(tmp_path)] == ["a.nii", "b.nii.gz"]
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
        assert scan.voxels[index] == max(itk[index], -1024)


def test_a_real_nrrd_is_what_its_header_and_bytes_say():
    """Read by hand: no library of images has a part in it."""
    path = shared("data/ct/slicerio/CTChest4.nrrd")
    head, _, data = path.read_bytes().partition(b"\n\n")
    entries = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert (entries["type"], entries["endian"], entries["space"]) == ("int", "little", "left-posterior-superior")
    data = gzip.decompress(data) if entries["encoding"] == "gzip" else data
    voxels = np.frombuffer(data, "<i4").reshape([int(n) for n in entries["sizes"].split()], order="F")
    vectors = [[float(n) for n in v.split(",")] for v in re.findall(r"\(([^)]*)\)", entries["space directions"])]
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(vectors)
    affine[:3, 3] = [float(n) for n in entries["space origin"].strip("()").split(",")]
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)
    assert (scan.voxels == np.clip(voxels, -1024, 3071)).all()


def test_a_real_dicom_directory_is_what_another_decoder_says():
    """Tags by pydicom, JPEG 2000 by Pillow; the reader here has both from GDCM."""
    pydicom = pytest.importorskip("pydicom")
    directory = shared("data/ct/dicom_j2k20")
    files = sorted((pydicom.dcmread(path) for path in directory.iterdir()), key=lambda ds: ds.ImagePositionPatient[2])
    scan = read_scan(directory)
    assert scan.voxels.shape == (512, 512, 20)
    for z, ds in enumerate(files):
        ds.pixel_array_options(decoding_plugin="pillow")
        plane = ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        assert (scan.voxels[:, :, z] == np.clip(plane.T, -1024, 3071)).all()
        rows, columns = np.array(ds.ImageOrientationPatient[3:]), np.array(ds.ImageOrientationPatient[:3])
        for x, y in ((0, 0), (511, 0), (100, 400)):
            place = ds.ImagePositionPatient + columns * ds.PixelSpacing[1] * x + rows * ds.PixelSpacing[0] * y
            np.testing.assert_allclose((scan.affine @ [x, y, z, 1])[:3], place * [-1, -1, 1], atol=1e-4)


def test_a_dicom_directory_lies_where_an_independent_reader_puts_it(tmp_path):
    voxels = random_ct((6, 8, 10))
    write_series(tmp_path / "ct", voxels, SeriesDescription="x")
    write_series(tmp_path / "ct", voxels[:3], SeriesInstanceUID="1.2.3.9", SeriesNumber=9, Modality="MR")
    scan = read_scan(tmp_path / "ct")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct"), "1.2.3.1"))
    itk = reader.Execute()
    assert scan.voxels.shape == itk.GetSize() == (10, 8, 6)
    assert (scan.voxels.transpose(2, 1, 0) == sitk.GetArrayFromImage(itk)).all()
    for index in ((0, 0, 0), (9, 7, 5), (3, 1, 4)):
        left, posterior, superior = itk.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((scan.affine @ [*index, 1])[:3], (-left, -posterior, superior), atol=1e-6)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    """Each slice lies 1 mm further back than the one below: atan(1 / 5) = 11.3 degrees."""
    scan = read_scan(write_series(tmp_path / "ct", random_ct((6, 8, 10)), step=(0, 1, 5)))
    assert "gantry tilt of 11.3 degrees" in " ".join(scan.warnings) and scan.grid.oblique
    np.testing.assert_allclose(scan.affine[:3, 2], (0, -1, 5), atol=1e-6)
    np.testing.assert_allclose(scan.affine[:3, 3], (30, 50, 10), atol=1e-6)


def test_a_series_in_several_directories_is_one_scan(tmp_path):
    voxels = random_ct((6, 8, 10))
    write_series(tmp_path / "ct" / "upper", voxels, leave_out=[0, 1, 2])
    write_series(tmp_path / "ct" / "lower", voxels, leave_out=[3, 4, 5])
    (scan,) = find_scans(tmp_path)
    assert scan.name == "ct" and read_scan(scan).voxels.shape == (10, 8, 6)


def test_globs_and_lists_name_scans(tmp_path):
    for name in ("a.nii.gz", "b.nii", "deep/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, random_ct())
    assert [s.name for s in find_scans(str(tmp_path / "**" / "*.nii.gz"))] == ["a", "c"]
    (tmp_path / "list.txt").write_text("# scans\na.nii.gz\n\ndeep/c.nii.gz\ngone.nii\n")
    assert [s.name for s in find_scans(tmp_path / "list.txt")] == ["a", "c", "gone"]
    (tmp_path / "list.csv").write_text("patient,scan\n1,b.nii\n2,deep\n")
    assert [s.name for s in find_scans(tmp_path / "list.csv")] == ["b", "c"]
    left_out = {}
    assert len(find_scans([tmp_path / "a.nii.gz", tmp_path / "deep" / ".." / "a.nii.gz"], skipped=left_out)) == 1
    assert list(left_out.values()) == ["the same scan is named twice"]


def test_what_is_wrong_in_a_list_is_a_case_of_its_own(tmp_path):
    for name in ("a.nii.gz", "b.nii", "c_seg.nii.gz"):
        save(tmp_path / name, random_ct())
    (tmp_path / "other.txt").write_text("a.nii.gz\n")
    for ending in ("txt", "csv"):
        lines = [f"{'x' * 300}.nii", "ze\0ro.nii", f"list.{ending}", "other.txt", "*.nii*", "none*.nii"]
        (tmp_path / f"list.{ending}").write_text("\n".join(lines))
        left_out = {}
        found = find_scans(tmp_path / f"list.{ending}", skipped=left_out)
        assert [s.name for s in found] == ["list-line1", "list-line2", "list-line3", "list-line4", "a", "b", "none*"]
        for scan, reason in zip(found, ("too long", "zero byte", "another list", "another list"), strict=False):
            with pytest.raises(CaseError, match=reason):
                read_scan(scan)
        assert [os.path.basename(path) for path in left_out] == ["c_seg.nii.gz"]


@pytest.mark.parametrize("how", ["arguments", "glob", "list", "directory"])
def test_scan_names_are_unique(tmp_path, how):
    paths = [f"{directory}/{name}.nii.gz" for directory in "ab" for name in ("imaging_ct", "imaging")] + ["a.nii.gz"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        save(tmp_path / path, random_ct((2, 2, 2)))
    (tmp_path / "list.txt").write_text("\n".join(paths))
    given = {
        "arguments": [tmp_path / path for path in paths],
        "glob": str(tmp_path / "**" / "*.nii.gz"),
        "list": tmp_path / "list.txt",
        "directory": tmp_path,
    }
    names = [scan.name for scan in find_scans(given[how])]
    assert len(set(names)) == len(paths) and {"a/imaging_ct", "b/imaging_ct", "b"} < set(names)


def test_what_looks_like_a_scan_and_is_not_read_is_told(tmp_path):
    save(tmp_path / "a.nii.gz", random_ct())
    os.mkfifo(tmp_path / "pipe")
    for name in ("old.hdr", "old.img", "one.dcm.gz", "b_seg.nii.gz", ".hidden.nii.gz", "readme.md"):
        (tmp_path / name).write_text("x")
    left_out = {}
    (scan,) = find_scans(tmp_path, skipped=left_out)
    assert scan.name == "a"
    reasons = {os.path.basename(path): reason for path, reason in left_out.items()}
    assert set(reasons) == {"old.hdr", "old.img", "one.dcm.gz", "b_seg.nii.gz", "pipe"}
    assert "pipe" in reasons["pipe"] and "gunzip" in reasons["one.dcm.gz"]


def test_a_grid_survives_as_text(tmp_path):
    itk = tmp_path / "scan.mha"
    sitk.WriteImage(sitk.ReadImage(str(save(tmp_path / "made.nii.gz", random_ct()))), str(itk))
    for path in (tmp_path / "made.nii.gz", itk):
        grid = read_scan(path).grid
        again = Grid.from_text(grid.to_text())
        assert again.same_as(grid) and again.name == grid.name
        mask = np.ones(grid.shape, np.uint8)
        first = write_mask(mask, grid, tmp_path / "1").read_bytes()
        assert write_mask(mask, again, tmp_path / "2").read_bytes() == first


def only_qform(path, qfac, code=0, **fields):
    def change(header):
        header.set_qform(niftis.AFFINE, 1)
        header["sform_code"], header["pixdim"][0] = code, qfac
        for name, value in fields.items():
            header[name] = value

    return niftis.nifti(path, change=change)


def test_a_qfac_of_0_counts_as_1(tmp_path):
    scan = read_scan(only_qform(tmp_path / "a.nii", 0))
    assert np.allclose(scan.affine, niftis.AFFINE) and "its qfac (pixdim[0]) is 0 and counts as 1" in scan.warnings[0]
    written = nib.load(write_mask(np.zeros(scan.voxels.shape, np.uint8), scan.grid, tmp_path / "out"))
    assert np.allclose(written.affine, niftis.AFFINE)


@pytest.mark.parametrize(("qfac", "fields"), [(5, {}), (np.nan, {}), (1, {"quatern_b": 1.0, "quatern_c": 1.0})])
def test_an_invalid_qform_is_refused_with_advice_that_helps(tmp_path, qfac, fields):
    with pytest.raises(CaseError, match=r"its qform is invalid .*; correct the header, or export it again"):
        read_scan(only_qform(tmp_path / "a.nii", qfac, **fields))
    both = only_qform(tmp_path / "b.nii", qfac, code=1, **fields)
    with pytest.raises(CaseError, match=r"its qform is invalid .*; use --trust sform"):
        read_scan(both, ReadOptions(trust="qform"))
    for options in (ReadOptions(trust="sform"), ReadOptions()):
        scan = read_scan(both, options)
        assert np.allclose(scan.affine, niftis.AFFINE) and "its sform is used" in scan.warnings[0]
