"""What comes in, and what must come out: bad inputs in a batch with a good one, through the command line.

Labels that do not fit, bad values, duplicates and splits are in test_preparation.py; checkpoints in
test_checkpoints.py.
"""

import gzip
import json
import os
import struct
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicoms import write_series, write_slice

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import main

AFFINE = np.diag([-6.0, -6.0, 8.0, 1.0])


def ct(shape=(12, 14, 10)):
    """Something like a CT: air outside, soft tissue inside."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[2:-2, 2:-2] = np.random.default_rng(0).integers(-100, 200, voxels[2:-2, 2:-2].shape)
    return voxels


def nifti(path, voxels=None, affine=AFFINE, change=None, **fields):
    """A NIfTI file whose header fields can be set to what no library would write."""
    voxels = ct() if voxels is None else voxels
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    if affine is not None:
        header.set_sform(affine, 1)
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    for name, value in fields.items():
        header[name] = value
    if change is not None:
        change(header)
    content = header.binaryblock + b"\0" * 4 + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


@pytest.fixture
def model(model_file):
    return model_file


@pytest.fixture
def predict(tmp_path, model, capsys):
    """Runs the command on what is given and a good scan: the exit code, what is said, the report's cases."""

    def run(*given, good=True):
        scans = [str(given[0]), *([str(nifti(tmp_path / "good.nii.gz"))] if good else [])]
        out = tmp_path / "out"
        code = main(["predict", "-o", str(out), "--checkpoint", str(model), *map(str, given[1:]), "--", *scans])
        cases = json.loads((out / "report.json").read_text())["cases"]
        if good:
            mask = nib.load(out / "good_seg.nii.gz")
            assert mask.shape == ct().shape and cases["good"]["outcome"] == "done"
        assert not [path for path in out.rglob(".*")], "something half-written is left"
        printed = capsys.readouterr()
        return code, printed.err, cases

    return run


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


def folder(path):
    path.mkdir()
    return path


#: Row of the catalogue, how the input is made in a folder, what is said of it, what makes it acceptable if anything.
REFUSED = [
    (1, lambda d: nifti(d / "bad.nii.gz", np.stack([ct(), ct()], 3)), "--volume 1 to 2", ["--volume=2"]),
    (1, lambda d: nifti(d / "bad.nii", np.stack([ct(), ct()], 3)), "2 volumes where", ["--volume=2"]),
    (3, lambda d: nifti(d / "bad.nii.gz", rgb()), "colour", None),
    (3, lambda d: itk(d / "bad.nrrd", np.zeros((8, 8, 8, 3), np.uint8), useCompression=True), "a colour", None),
    (4, lambda d: nifti(d / "bad.nii.gz", ct().astype(np.complex64)), "complex", None),
    (5, lambda d: nifti(d / "bad.nii.gz", with_nan(0.05)), "not finite numbers", None),
    (7, lambda d: nifti(d / "bad.nii.gz", (ct() + 1024).astype(np.uint16)), "--hu-offset", ["--hu-offset=-1024"]),
    (7, lambda d: itk(d / "bad.mha", (ct() + 1024).astype(np.uint16)), "--hu-offset", ["--hu-offset=-1024"]),
    (9, lambda d: nifti(d / "bad.nii.gz", np.full((8, 8, 8), 1e303)), "are no HU", None),
    (10, lambda d: nifti(d / "bad.nii.gz", pixdim=[1, 0, 6, 8, 0, 0, 0, 0]), "--spacing", ["--spacing", "6", "6", "8"]),
    (10, lambda d: without_line(itk(d / "bad.nrrd"), b"space directions"), "--spacing", ["--spacing", "6", "6", "8"]),
    (12, lambda d: nifti(d / "bad.nii.gz", pixdim=[1, np.nan, 6, 8, 0, 0, 0, 0]), "voxel size is", None),
    (13, lambda d: nifti(d / "bad.nii.gz", affine=np.diag([1e6, 6, 6, 1])), "not believable", None),
    (13, lambda d: nifti(d / "bad.nii.gz", affine=np.diag([0.01, 6, 6, 1])), "not believable", None),
    (13, lambda d: nifti(d / "bad.nii.gz", change=units), "micron is not in mm", None),
    (14, lambda d: nifti(d / "bad.nii.gz", change=two_forms), "--trust", ["--trust=sform"]),
    (16, lambda d: nifti(d / "bad.nii.gz", affine=np.array([[6, 6, 0, 0], [6, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1.0]])),
     "singular", None),
    (18, lambda d: nifti(d / "bad.nii.gz", ct()[:, :, 0]), "three axes", None),
    (18, lambda d: nifti(d / "bad.nii.gz", ct()[:, :, :1]), "three axes", None),
    (19, lambda d: huge(d / "bad.nii"), "GB of memory, more than the", None),
    (20, lambda d: truncated(nifti(d / "bad.nii")), "announces", None),
    (20, lambda d: nifti(d / "bad.nii.gz", dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "announces", None),
    (20, lambda d: truncated(itk(d / "bad.nrrd")), "announces", None),
    (21, lambda d: text(d / "bad.nii.gz", ""), "empty", None),
    (21, lambda d: text(d / "bad.nrrd", ""), "empty", None),
    (22, lambda d: truncated(nifti(d / "bad.nii.gz")), "truncated", None),
    (22, lambda d: truncated(itk(d / "bad.nrrd", useCompression=True)), "truncated", None),
    (22, lambda d: truncated(itk(d / "bad.mha", useCompression=True)), "truncated", None),
    (23, lambda d: flipped(nifti(d / "bad.nii.gz")), "CRC", None),
    (23, lambda d: flipped(itk(d / "bad.nrrd", useCompression=True)), "damaged", None),
    (25, lambda d: text(d / "bad.nii.gz", "<!DOCTYPE html><html>404</html>"), "download incomplete", None),
    (25, lambda d: text(d / "bad.nrrd", "version https://git-lfs.github.com/spec/v1\n"), "download incomplete", None),
    (26, lambda d: folder(d / "bad.nii.gz"), "is a folder", None),
    (27, lambda d: bomb(d / "bad.nii.gz"), "unpacks to more", None),
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
        assert code == 0 and cases["bad"]["outcome"] == "done"


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
    (shape,) = {nib.load(tmp_path / "out" / file).shape for file in cases["odd"]["files"]}
    assert np.prod(shape) == np.prod(nib.load(path).shape) if row != 24 else shape == ct().shape


def test_32_files_of_one_name_keep_their_folders(tmp_path, predict):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nifti(tmp_path / "in" / name / "scan.nii.gz")
    code, _, cases = predict(tmp_path / "in")
    assert code == 0 and {"a/scan", "b/scan"} < set(cases)
    assert (tmp_path / "out" / "b" / "scan_seg.nii.gz").is_file()


def test_33_links_to_nothing_and_in_circles_are_reported(tmp_path, predict):
    scans = folder(tmp_path / "in")
    nifti(scans / "scan.nii.gz")
    (scans / "gone.nii.gz").symlink_to("nowhere")
    (scans / "self.nii.gz").symlink_to("self.nii.gz")
    (scans / "loop").symlink_to("..", target_is_directory=True)
    (scans / "again").symlink_to(".", target_is_directory=True)
    code, _, cases = predict(scans)
    assert code == 0 and "scan" in cases
    left_out = json.loads((tmp_path / "out" / "report.json").read_text())["left_out"]
    assert {os.path.basename(path) for path in left_out} == {"gone.nii.gz", "self.nii.gz", "again", "loop"}


@pytest.mark.parametrize("name", ["with space.nii.gz", "Ünïcødé 扫描.nii.gz", "-dash.nii.gz", "a'b\"c.nii.gz"])
def test_34_any_name_works(tmp_path, predict, monkeypatch, name):
    nifti(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    code, _, _ = predict(name)
    assert code == 0 and (tmp_path / "out" / name.replace(".nii.gz", "_seg.nii.gz")).is_file()


def test_35_an_output_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(tmp_path, capsys):
    scan, file = nifti(tmp_path / "scan.nii.gz"), text(tmp_path / "file", "")
    # The model does not exist either, which would be exit code 3.
    assert main(["predict", str(scan), "-o", str(file / "out"), "--checkpoint", "none.pt"]) == 2
    assert "nothing can be written there" in capsys.readouterr().err


def test_36_a_full_disk_keeps_what_is_finished_and_nothing_half_written(tmp_path, model):
    noise = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)
    scans = [nifti(tmp_path / "a.nii.gz"), nifti(tmp_path / "b.nii", noise), nifti(tmp_path / "c.nii.gz")]
    out = tmp_path / "out"
    code = (
        "import resource, sys; from kits_unet3d.pipeline.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "predict", *map(str, scans), "-o", str(out), "--checkpoint", str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "b.nii" in done.stderr and "File too large" in done.stderr
    assert {path.name for path in out.iterdir()} == {"a_seg.nii.gz", "c_seg.nii.gz", "report.json", "report.csv"}


def slices():
    return np.ascontiguousarray(ct((8, 14, 10)).transpose(0, 2, 1))


def two_phases(path, clean=True):
    write_series(path, slices(), AcquisitionNumber=1)
    return write_series(path, slices() + 10, AcquisitionNumber=2 if clean else 1)


def unknown_syntax(path):
    write_series(path, slices())
    for file in path.iterdir():
        old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.201\0"
        content = file.read_bytes()
        at = content.index(b"\x02\x00\x10\x00UI") + 8
        assert content[at : at + len(old)] == old
        length = struct.unpack("<I", content[140:144])[0] + len(new) - len(old)
        changed = content[: at - 2] + struct.pack("<H", len(new)) + new + content[at + len(old) :]
        file.write_bytes(changed[:140] + struct.pack("<I", length) + changed[144:])
    return path


def tilted_out_of_line(path):
    write_series(path, slices())
    write_slice(path / "x.dcm", slices()[0], (-10, -50, 10 + 8 * 5))
    return path


ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
BAD_DICOM = [
    (18, lambda d: write_series(d / "bad", slices()[:1]), "one slice", None),
    (37, lambda d: write_series(d / "bad", slices(), leave_out=[3]), "missing or uneven", ["--allow-gaps"]),
    (37, lambda d: truncated_slice(write_series(d / "bad", slices())), "damaged", None),
    (38, lambda d: two_series(d / "bad"), "--series", ["--series=2"]),
    (40, lambda d: two_phases(d / "bad"), "--series", ["--series=1.2"]),
    (40, lambda d: two_phases(d / "bad", clean=False), "at one position", None),
    (41, lambda d: write_series(d / "bad", slices(), ImagePositionPatient=None), "no ImagePositionPatient", None),
    (42, lambda d: tilted_out_of_line(d / "bad"), "on a line", None),
    (43, lambda d: unknown_syntax(d / "bad"), "transfer syntax 1.2.840.10008.1.2.4.201", None),
    (44, lambda d: write_series(d / "bad", slices(), SOPClassUID=ENHANCED), "Enhanced CT (multi-frame)", None),
    (44, lambda d: write_series(d / "bad", slices(), Modality="MR"), "MR image", None),
]


def truncated_slice(path):
    victim = sorted(path.iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:-200])
    return path


def two_series(path):
    write_series(path, slices(), SeriesDescription="portal")
    return write_series(path, slices()[:6], SeriesInstanceUID="1.2.3.2", SeriesNumber=2, SeriesDescription="late")


@pytest.mark.parametrize(
    ("row", "make", "message", "way_out"), BAD_DICOM, ids=[f"{r[0]}-{i}" for i, r in enumerate(BAD_DICOM)]
)
def test_a_bad_dicom_folder_is_refused_by_name_and_the_others_are_done(tmp_path, predict, row, make, message, way_out):
    code, error, cases = predict(make(tmp_path))
    assert code == 1 and cases["bad"]["outcome"] == "failed"
    assert "bad" in error and message in error and "Traceback" not in error
    assert not any(word in error for word in ("Doe", "Jane", "4711"))
    if way_out:
        code, _, cases = predict(tmp_path / "bad", *way_out, good=False)
        assert code == 0 and cases["bad"]["outcome"] == "done"


def test_37_gaps_are_filled_by_interpolation(tmp_path, predict):
    voxels = slices()
    voxels[3] = (voxels[2].astype(int) + voxels[4]) // 2
    write_series(tmp_path / "bad", voxels, leave_out=[3])
    code, _, cases = predict(tmp_path / "bad", "--allow-gaps")
    assert code == 0 and "even grid of 5.00 mm" in " ".join(cases["bad"]["warnings"])
    assert nib.load(tmp_path / "out" / "bad_seg.nii.gz").shape == (14, 10, 8)


def test_38_all_series_can_be_done_and_each_gets_its_mask(tmp_path, predict):
    code, _, cases = predict(two_series(tmp_path / "both"), "--series=all")
    assert code == 0 and {"both_series1", "both_series2"} < set(cases)
    assert nib.load(tmp_path / "out" / "both_series2_seg.nii.gz").shape == (14, 10, 6)


def test_39_a_scout_is_left_out_and_listed(tmp_path, predict):
    write_series(tmp_path / "ct", slices())
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    write_slice(tmp_path / "ct" / "scout.dcm", slices()[0], (0, 0, 0), **scout)
    code, _, cases = predict(tmp_path / "ct")
    assert code == 0 and "left out: 1 localizer" in cases["ct"]["warnings"]


def test_43_run_length_encoding_is_decoded(tmp_path, predict):
    from pydicom.uid import RLELossless

    for number, plane in enumerate(slices()):
        write_slice(
            tmp_path / "ct" / f"{number}.dcm", plane, (0, 0, number * 5), change=lambda ds: ds.compress(RLELossless)
        )
    assert predict(tmp_path / "ct")[0] == 0


@pytest.mark.parametrize("keep", [False, True])
def test_45_patients_names_appear_only_if_kept(tmp_path, predict, keep, capsys):
    write_series(tmp_path / "in" / "DOE_JANE_P-4711", slices())
    write_series(tmp_path / "in" / "Roe^Rick", slices(), leave_out=[3], SeriesInstanceUID="1.2.3.2")
    code, error, _ = predict(tmp_path / "in", *(["--keep-names"] if keep else []))
    assert code == 1
    report = (tmp_path / "out" / "report.json").read_text() + (tmp_path / "out" / "report.csv").read_text()
    files = " ".join(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    for word in ("doe", "jane", "4711", "rick"):
        assert (word in (error + report + files).lower()) == keep, word


def test_45_texts_in_a_header_do_not_reach_the_mask(tmp_path, predict):
    predict(nifti(tmp_path / "scan.nii.gz", descrip=b"Doe^Jane 1960", db_name=b"4711"))
    assert b"Doe" not in gzip.decompress((tmp_path / "out" / "scan_seg.nii.gz").read_bytes())


def test_46_to_48_a_model_that_cannot_be_used_is_exit_code_3(tmp_path, model, capsys):
    scan, out = str(nifti(tmp_path / "scan.nii.gz")), str(tmp_path / "out")
    damaged, other = tmp_path / "damaged.pt", tmp_path / "other.pt"
    damaged.write_bytes(model.read_bytes()[:3000])
    content = torch.load(model, weights_only=True)
    torch.save({**content, "model": UNet3D(channels=(2, 8)).state_dict()}, other)
    for path, message in ((damaged, "damaged.pt: damaged"), (other, "(4, 2, 3, 3, 3) in the network")):
        assert main(["predict", scan, "-o", out, "--checkpoint", str(path)]) == 3
        assert message in capsys.readouterr().err


def test_49_an_unknown_option_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as done:
        main(["predict", "scan.nii.gz", "-o", "out", "--seris", "2"])
    assert done.value.code == 2 and "--seris" in capsys.readouterr().err


def test_50_no_kidney_in_view_finishes_with_a_flag(tmp_path, model, predict):
    content = torch.load(model, weights_only=True)
    bias = next(name for name in content["model"] if name.startswith("output") and name.endswith("bias"))
    content["model"][bias] = torch.tensor([100.0, 0, 0])
    torch.save(content, tmp_path / "blind.pt")
    code, _, cases = predict(nifti(tmp_path / "scan.nii.gz"), "--checkpoint", tmp_path / "blind.pt")
    assert code == 0 and "no kidney" in cases["scan"]["flags"]
