"""Preparation of what is not as it should be: each case fails alone, by name, and the others are preprocessed."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from conftest import TINY

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, find_cases, preprocess_dataset
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.transforms import PreprocessingParameters


def copy_case(source, target):
    target.mkdir(parents=True)
    for name in ("imaging.nii.gz", "segmentation.nii.gz"):
        (target / name).write_bytes((source / name).read_bytes())


@pytest.fixture
def two_cases(tmp_path, raw_phantoms):
    for case in ("case_00000", "case_00001"):
        copy_case(raw_phantoms / case, tmp_path / "raw" / case)
    (tmp_path / "raw" / "dataset.json").write_text(
        json.dumps({"training": ["case_00000"], "evaluation": ["case_00001"]})
    )
    return tmp_path / "raw"


def relabel(path, change):
    image = nib.load(path)
    nib.save(change(image), path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: nib.Nifti1Image(np.asarray(i.dataobj)[:-1], i.affine), "shape"),
        (lambda i: nib.Nifti1Image(np.asarray(i.dataobj) + np.uint8(1), i.affine), "unknown label values"),
        (lambda i: nib.Nifti1Image(np.asarray(i.dataobj) * np.uint8(0), i.affine), "every voxel is 0"),
    ],
)
def test_a_bad_label_fails_its_case_by_name_and_the_others_are_prepared(
    tmp_path, two_cases, tiny_parameters, change, reason
):
    relabel(two_cases / "case_00000" / "segmentation.nii.gz", change)
    failed = preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)
    assert list(failed) == ["case_00000"]
    assert reason in failed["case_00000"] and "case_00000/segmentation.nii.gz" in failed["case_00000"]
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_a_label_lying_elsewhere_fails_its_case(tmp_path, two_cases, tiny_parameters):
    def shifted(image):
        affine = image.affine.copy()
        affine[0, 3] += 4
        return nib.Nifti1Image(np.asarray(image.dataobj), affine)

    relabel(two_cases / "case_00000" / "segmentation.nii.gz", shifted)
    assert "affine differs" in preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)["case_00000"]


def test_a_truncated_image_fails_its_case(tmp_path, two_cases, tiny_parameters):
    path = two_cases / "case_00000" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    failed = preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)
    assert "imaging.nii.gz: cannot be read" in failed["case_00000"]


def test_a_label_without_its_image_is_reported_and_the_others_are_prepared(tmp_path, two_cases, tiny_parameters):
    (two_cases / "case_00000" / "imaging.nii.gz").unlink()
    failed = preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)
    assert "case_00000/imaging.nii.gz: no such file" in failed["case_00000"]
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


@pytest.mark.parametrize("missing", ["segmentation.nii.gz", "imaging.nii.gz"])
def test_what_vanished_since_fails_its_case_when_run_again(tmp_path, two_cases, tiny_parameters, missing):
    assert preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters) == {}
    stamp = (tmp_path / "out" / "case_00001_x.npy").stat().st_mtime_ns
    (two_cases / "case_00000" / missing).unlink()
    failed = preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)
    assert list(failed) == ["case_00000"] and f"case_00000/{missing}: " in failed["case_00000"]
    assert (tmp_path / "out" / "case_00001_x.npy").stat().st_mtime_ns == stamp


def test_a_case_that_is_listed_but_not_there_fails_by_name(tmp_path, two_cases, capsys):
    """One has no label, one has no file; a directory without a label that no list names is left alone."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (two_cases / "case_00000" / "segmentation.nii.gz").unlink()
    listed = {"training": ["case_00000", "case_00007"], "evaluation": ["case_00001"]}
    (two_cases / "dataset.json").write_text(json.dumps(listed))
    (two_cases / "case_00300").mkdir()
    (two_cases / "case_00300" / "imaging.nii.gz").write_bytes(b"")
    command = ["prepare", "--data-dir", str(two_cases), "-o", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    error = capsys.readouterr().err
    assert "case_00000/segmentation.nii.gz: no such file" in error
    assert "case_00007/imaging.nii.gz: no such file" in error and "case_00300" not in error
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_a_directory_without_a_list_may_hold_scans_without_labels(two_cases):
    """As KiTS19's own does: its cases beyond 210 have none."""
    (two_cases / "dataset.json").unlink()
    (two_cases / "case_00000" / "segmentation.nii.gz").unlink()
    assert [case.case_id for case in find_cases(two_cases)[1]] == ["case_00001"]


def test_other_numbers_into_the_same_directory_are_refused(tmp_path, two_cases, tiny_parameters):
    preprocess_dataset(two_cases, tmp_path / "out", tiny_parameters)
    with pytest.raises(UsageError, match="choose another --output-dir"):
        preprocess_dataset(two_cases, tmp_path / "out", PreprocessingParameters())


def test_a_case_in_both_splits_or_in_none_is_refused(two_cases, tmp_path):
    for content, reason in [
        ({"training": ["case_00000", "case_00001"], "evaluation": ["case_00001"]}, "both splits"),
        ({"training": ["case_00000"], "evaluation": []}, "not in any split"),
        ({"training": 3}, "must be JSON"),
        (
            {"training": ["../case_00000"], "evaluation": ["case_00001", "case_00000"]},
            "not the name of a case directory",
        ),
        ({"training": [7], "evaluation": ["case_00001", "case_00000"]}, "not the name of a case directory"),
    ]:
        (two_cases / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=reason):
            preprocess_dataset(two_cases, tmp_path / "out")


def rgb(image):
    return nib.Nifti1Image(np.zeros(image.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), image.affine)


def flat(image):
    singular = image.affine.copy()
    singular[:3, 1] = singular[:3, 0]
    made = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    made.header.set_sform(singular, 1)
    made.header["qform_code"] = 0
    return made


def with_pixdim(path, value):
    """Bytes that no library would write."""
    image = nib.load(path)
    header = image.header.copy()
    header["pixdim"][1] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: relabel(path, rgb), "colour"),
        (lambda path: relabel(path, flat), "singular"),
        (lambda path: with_pixdim(path, np.nan), "voxel size is"),
        (lambda path: with_pixdim(path, 17.0), "pixdim is"),
        (lambda path: relabel(path, lambda i: nib.Nifti1Image(np.full(i.shape, 1e9), i.affine)), "are not HU"),
        (lambda path: path.write_bytes(b"\0" * 1000), "cannot be read"),
    ],
    ids=["rgb", "singular", "nan", "other size", "1e9", "zeros"],
)
def test_a_bad_image_fails_its_case_and_the_others_are_prepared(tmp_path, two_cases, change, reason, capsys):
    """By the command, which ends with exit code 1."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    change(two_cases / "case_00000" / "imaging.nii.gz")
    command = ["prepare", "--data-dir", str(two_cases), "-o", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    error = capsys.readouterr().err
    assert "failed: " in error and "case_00000/imaging.nii.gz: " in error and reason in error
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def fractional(image):
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[0, 0, :3] = 0.5
    return nib.Nifti1Image(voxels, image.affine)


@pytest.mark.parametrize(
    ("row", "break_it", "reason"),
    [
        (28, lambda raw: relabel(raw / "segmentation.nii.gz", lambda i: i.slicer[1:]), "differs from the image's"),
        (29, lambda raw: relabel(raw / "segmentation.nii.gz", fractional), "contains 0.5, but labels are whole"),
        (30, lambda raw: relabel(raw / "segmentation.nii.gz", lambda i: nib.Nifti1Image(i.get_fdata() * 0, i.affine)),
         "every voxel is 0"),
    ],
)  # fmt: skip
def test_a_bad_label_is_exit_code_1(tmp_path, two_cases, row, break_it, reason, capsys):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    break_it(two_cases / "case_00000")
    command = ["prepare", "--data-dir", str(two_cases), "-o", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    assert reason in capsys.readouterr().err
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_a_case_in_both_splits_is_exit_code_2(tmp_path, two_cases, capsys):
    content = {"training": ["case_00000", "case_00001"], "evaluation": ["case_00001"]}
    (two_cases / "dataset.json").write_text(json.dumps(content))
    assert main(["prepare", "--data-dir", str(two_cases), "-o", str(tmp_path / "out")]) == 2
    assert "case_00001 in both splits" in capsys.readouterr().err
