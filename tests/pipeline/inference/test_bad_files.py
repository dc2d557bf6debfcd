"""Bad files, alone in a batch with a good scan, through the command line: rows 1 to 27 of what may come in.

Rows 18 and 37 to 45, on DICOM, are in test_bad_dicom.py; 32 to 36, on directories, names and disks, and 46 to 50, on
models and options, in test_bad_surroundings.py. Labels that do not fit, bad values, duplicates and splits are in
test_preparation_refusals.py; checkpoints in test_checkpoints.py.
"""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from niftis import AFFINE, ct, nifti


def units(header):
    header.set_xyzt_units("micron")


def two_forms(header):
    header.set_qform(np.diag([-7.0, -6.0, 8.0, 1.0]), 1)
    header.set_sform(AFFINE, 1)


def with_nan(share):
    voxels = ct().astype(np.float32)
    voxels.ravel()[: int(share * voxels.size)] = np.nan
    return voxels


def rgb():
    return np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # within the checksum
    path.write_bytes(content)
    return path


def text(path, content):
    path.write_text(content)
    return path


def huge(path):
    """1000³ voxels that take no room on the disk."""
    nifti(path, ct((4, 4, 4)), dim=[3, 1000, 1000, 1000, 1, 1, 1, 1], pixdim=[1, 0.5, 0.5, 0.5, 0, 0, 0, 0])
    os.truncate(path, 352 + 2 * 1000**3)
    return path


def bomb(path):
    nifti(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0" * 40_000_000, 1))
    return path


def itk(path, voxels=None, **options):
    image = sitk.GetImageFromArray(ct() if voxels is None else voxels)
    image.SetSpacing((8.0, 6.0, 6.0))
    sitk.WriteImage(image, str(path), **options)
    return path


def without_line(path, key):
    head, _, data = path.read_bytes().partition(b"\n\n")
    path.write_bytes(b"\n".join(line for line in head.split(b"\n") if not line.startswith(key)) + b"\n\n" + data)
    return path


def with_entry(path, entry):
    """A MetaImage or NRRD file with a line before its last ones."""
    head, last, data = path.read_bytes().partition(b"ElementDataFile" if path.suffix == ".mha" else b"encoding:")
    key = entry.split(b"=")[0].split(b":")[0].strip()
    lines = [line for line in head.split(b"\n") if line and not line.startswith(key)]
    path.write_bytes(b"\n".join([*lines, entry]) + b"\n" + last + data)
    return path


def pipe(path):
    os.mkfifo(path)
    return path


def shifted(change):
    """HU plus 1024, as floats, with something that only looks like air."""
    voxels = ct().astype(np.float32) + 1024
    change(voxels)
    return voxels


def directory(path):
    path.mkdir()
    return path


#: Row of the catalogue, how the input is made in a directory, what is said of it, what makes it acceptable if anything.
def labels():
    """A label map of many values whose unknown voxels are -1."""
    return np.random.default_rng(0).integers(-1, 105, ct().shape).astype(np.int16)


FAR = AFFINE.copy()
FAR[:3, 3] = 1e30

REFUSED = [
    (1, lambda d: nifti(d / "bad.nii.gz", np.stack([ct(), ct()], 3)), "--volume 1 to 2", ["--volume=2"]),
    (1, lambda d: nifti(d / "bad.nii", np.stack([ct(), ct()], 3)), "2 volumes, but", ["--volume=2"]),
    (3, lambda d: nifti(d / "bad.nii.gz", rgb()), "colour", None),
    (3, lambda d: itk(d / "bad.nrrd", np.zeros((8, 8, 8, 3), np.uint8), useCompression=True), "a colour", None),
    (4, lambda d: nifti(d / "bad.nii.gz", ct().astype(np.complex64)), "complex", None),
    (5, lambda d: nifti(d / "bad.nii.gz", with_nan(0.05)), "not finite numbers", None),
    (7, lambda d: nifti(d / "bad.nii.gz", (ct() + 1024).astype(np.uint16)), "--hu-offset", ["--hu-offset=-1024"]),
    (7, lambda d: itk(d / "bad.mha", (ct() + 1024).astype(np.uint16)), "--hu-offset", ["--hu-offset=-1024"]),
    (7, lambda d: nifti(d / "bad.nii.gz", shifted(lambda v: v[0].fill(-2000))), "--hu-offset", ["--hu-offset=-1024"]),
    (7, lambda d: nifti(d / "bad.nii.gz", shifted(lambda v: v[0, 0, :1].fill(np.nan))), "--hu-offset", None),
    (9, lambda d: nifti(d / "bad.nii.gz", np.full((8, 8, 8), 1e303)), "are not HU", None),
    (10, lambda d: nifti(d / "bad.nii.gz", pixdim=[1, 0, 6, 8, 0, 0, 0, 0]), "--spacing", ["--spacing", "6", "6", "8"]),
    (10, lambda d: without_line(itk(d / "bad.nrrd"), b"space directions"), "--spacing", ["--spacing", "6", "6", "8"]),
    (12, lambda d: nifti(d / "bad.nii.gz", pixdim=[1, np.nan, 6, 8, 0, 0, 0, 0]), "voxel size is",
     ["--spacing", "6", "6", "8"]),
    (13, lambda d: with_entry(itk(d / "bad.nrrd"), b'space units: "m" "m" "m"'), "not in mm",
     ["--spacing", "6", "6", "8"]),
    (13, lambda d: nifti(d / "bad.nii.gz", affine=np.diag([1e6, 6, 6, 1])), "not plausible", None),
    (13, lambda d: nifti(d / "bad.nii.gz", affine=np.diag([0.01, 6, 6, 1])), "not plausible", None),
    (13, lambda d: nifti(d / "bad.nii.gz", change=units), "micron is not in mm", None),
    (14, lambda d: nifti(d / "bad.nii.gz", change=two_forms), "--trust", ["--trust=sform"]),
    (16, lambda d: nifti(d / "bad.nii.gz", affine=np.array([[6, 6, 0, 0], [6, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1.0]])),
     "singular", None),
    (18, lambda d: nifti(d / "bad.nii.gz", ct()[:, :, 0]), "three axes", None),
    (18, lambda d: with_entry(itk(d / "bad.mha"), b"NDims = 73"), "73 axes", None),
    (18, lambda d: nifti(d / "bad.nii.gz", ct()[:, :, :1]), "three axes", None),
    (19, lambda d: huge(d / "bad.nii"), "GB of memory, more than the", None),
    (20, lambda d: truncated(nifti(d / "bad.nii")), "declares", None),
    (20, lambda d: nifti(d / "bad.nii.gz", dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "declares", None),
    (20, lambda d: truncated(itk(d / "bad.nrrd")), "declares", None),
    (21, lambda d: text(d / "bad.nii.gz", ""), "empty", None),
    (21, lambda d: text(d / "bad.nrrd", ""), "empty", None),
    (22, lambda d: truncated(nifti(d / "bad.nii.gz")), "truncated", None),
    (22, lambda d: truncated(itk(d / "bad.nrrd", useCompression=True)), "truncated", None),
    (22, lambda d: truncated(itk(d / "bad.mha", useCompression=True)), "truncated", None),
    (23, lambda d: flipped(nifti(d / "bad.nii.gz")), "CRC", None),
    (23, lambda d: flipped(itk(d / "bad.nrrd", useCompression=True)), "damaged", None),
    (25, lambda d: text(d / "bad.nii.gz", "<!DOCTYPE html><html>404</html>"), "download incomplete", None),
    (25, lambda d: text(d / "bad.nrrd", "version https://git-lfs.github.com/spec/v1\n"), "download incomplete", None),
    (26, lambda d: directory(d / "bad.nii.gz"), "is a directory", None),
    (26, lambda d: pipe(d / "bad.nii.gz"), "is a pipe", None),
    (13, lambda d: nifti(d / "bad.nii.gz", labels()), "without any air", ["--hu-offset=0"]),
    (11, lambda d: nifti(d / "bad.nii.gz", affine=FAR), "far away", None),
    (27, lambda d: bomb(d / "bad.nii.gz"), "decompresses to more", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "make", "message", "way_out"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)]
)
def test_a_bad_file_is_refused_by_name_and_the_others_are_done(tmp_path, predict, row, make, message, way_out):
    bad = make(tmp_path)
    code, error, cases = predict(bad, *(["--max-memory=4GB"] if row == 19 else []))
    assert code == 1 and cases["bad"]["outcome"] == "failed"
    assert bad.name in error and message in error and "Traceback" not in error
    assert "1 of 2 scans failed (bad)" in error
    if way_out:
        code, _, cases = predict(bad, *way_out, good=False)
        assert code == 0 and cases["bad"]["outcome"] != "failed"


def padded(low, dtype=np.int16):
    voxels = ct().astype(np.int32)
    voxels[0] = low
    return voxels.astype(dtype)


ROTATED = AFFINE.copy()
ROTATED[:2, :2] = np.array([[-0.94, 0.342], [-0.342, -0.94]]) * 6
SHEARED = AFFINE.copy()
SHEARED[1, 2] = 2.0

ACCEPTED = [
    (2, lambda d: nifti(d / "odd.nii.gz", ct()[..., None]), None),
    (5, lambda d: nifti(d / "odd.nii.gz", with_nan(0.005)), "not finite numbers"),
    (6, lambda d: nifti(d / "odd.nii.gz", scl_slope=0, scl_inter=7), "scaling"),
    (6, lambda d: nifti(d / "odd.nii.gz", scl_slope=np.nan), "scaling"),
    (6, lambda d: nifti(d / "odd.nii.gz", scl_slope=np.inf), "scaling"),
    (8, lambda d: nifti(d / "odd.nii.gz", padded(-3024)), "padding"),
    (8, lambda d: nifti(d / "odd.nii.gz", padded(-2000)), "padding"),
    (8, lambda d: nifti(d / "odd.nii.gz", ct().view(np.uint16)), "wrapped"),
    (11, lambda d: nifti(d / "odd.nii.gz", pixdim=[1, -6, 6, 8, 0, 0, 0, 0]), "negative"),
    (13, lambda d: nifti(d / "odd.nii.gz", xyzt_units=4), "length unit (code 4) is unknown"),
    (15, lambda d: nifti(d / "odd.nii.gz", sform_code=0, qform_code=0), "left and right are unknown"),
    (17, lambda d: nifti(d / "odd.nii.gz", affine=ROTATED), "oblique"),
    (17, lambda d: nifti(d / "odd.nii.gz", affine=SHEARED), "oblique"),
    (19, lambda d: nifti(d / "odd.nii.gz", ct((3, 3, 3))), None),
    (24, lambda d: nifti(d / "odd.nii").rename(d / "odd.nii.gz"), "not compressed"),
    (24, lambda d: nifti(d / "odd.nii.gz").rename(d / "odd.nii"), "compressed"),
]


@pytest.mark.parametrize(("row", "make", "warning"), ACCEPTED, ids=[f"{r[0]}-{i}" for i, r in enumerate(ACCEPTED)])
def test_an_odd_file_is_done_with_a_warning(tmp_path, predict, row, make, warning):
    path = make(tmp_path)
    code, error, cases = predict(path)
    assert code == 0 and not error
    warnings = " ".join(cases["odd"]["warnings"])
    assert (warning in warnings) if warning else not warnings
    (shape,) = {nib.load(tmp_path / "out" / file).shape for file in cases["odd"]["files"] if "_seg.n" in file}
    assert np.prod(shape) == np.prod(nib.load(path).shape) if row != 24 else shape == ct().shape


@pytest.mark.parametrize(
    ("way_out", "warning"),
    [
        (["--spacing", "1", "1", "1"], "--spacing is ignored"),
        (["--volume=2"], None),
        (["--hu-offset=-1024"], "it has air at -1000 already"),
    ],
)
def test_a_way_out_leaves_good_scans_alone_or_says_what_it_does(tmp_path, predict, way_out, warning):
    (tmp_path / "in").mkdir()
    nifti(tmp_path / "in" / "scan.nii.gz")
    code, _, cases = predict(tmp_path / "in", *way_out)
    warnings = " ".join(cases["good"]["warnings"])
    assert code == 0 and ((warning in warnings) if warning else not warnings)
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "good_seg.nii.gz").affine, AFFINE)


def test_a_singular_affine_is_refused_even_with_a_given_spacing(tmp_path, predict):
    flat = nifti(tmp_path / "flat.nii.gz", affine=np.diag([6.0, 0.0, 6.0, 1.0]))
    code, error, cases = predict(flat, "--spacing", "6", "6", "6")
    assert code == 1 and cases["flat"]["error"].count("\n") == 0 and "its affine is singular" in error
