import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SHARED, TINY, shared

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, OpenPreparedd, find_cases, prepare_dataset, require_data, verify
from kits_unet3d.pipeline.data.cases import read_volume
from kits_unet3d.pipeline.data.kits19 import known_cases
from kits_unet3d.pipeline.errors import CaseError, UsageError
from kits_unet3d.transforms import Recipe, component_boxes, preparation


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_the_references_and_the_index_tells_about_them(prepared_phantoms, raw_phantoms, tiny_recipe):
    index = Index.read(prepared_phantoms)
    assert len(index.cases) == 5 and index.recipe == tiny_recipe
    assert len(index.data_list("training")) == 4 and len(index.data_list("evaluation")) == 1
    for case_id, record in index.cases.items():
        image = np.load(prepared_phantoms / f"{case_id}_x.npy")
        label = np.load(prepared_phantoms / f"{case_id}_y.npy")
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert image.shape == label.shape == (1, *record["shape"]) and min(record["shape"]) >= 32
        boxes = {str(k): [[list(axis) for axis in box] for box in v] for k, v in component_boxes(label).items()}
        assert record["boxes"] == boxes
        source = nib.load(raw_phantoms / case_id / "imaging.nii.gz")
        assert record["source_shape"] == list(source.shape)
        np.testing.assert_allclose(record["source_affine"], source.affine)
    assert {verdict.outcome for verdict in verify(prepared_phantoms)} == {"right"}


def test_a_case_as_it_was_stored_is_prepared_on_the_way(prepared_phantoms, raw_phantoms, tiny_recipe):
    case = next(case for case in Index.read(prepared_phantoms).data_list("training") if case["case_id"] == "case_00002")
    folder = raw_phantoms / "case_00002"
    stored = {"image": str(folder / "imaging.nii.gz"), "label": str(folder / "segmentation.nii.gz")}
    opened, made = (OpenPreparedd(["image", "label"], tiny_recipe)(data) for data in (case, stored))
    for key in ("image", "label"):
        assert np.array_equal(opened[key], made[key]) and opened[key].dtype == made[key].dtype
    assert made["boxes"].keys() == case["boxes"].keys() and made["case_id"] == stored["image"]
    with pytest.raises(CaseError, match="cannot be opened"):
        OpenPreparedd(["image", "label"])(stored)


def test_the_lists_a_run_uses_are_checked_and_the_folder_only_if_they_are_its_own(
    prepared_phantoms, tiny_recipe, tmp_path
):
    given = [{"image": "a.nii.gz", "label": "b.nii.gz"}] * 2
    require_data(tmp_path, tiny_recipe, given, given, cases_a_step=2)
    with pytest.raises(UsageError, match="2 training case.*each of which needs 3"):
        require_data(tmp_path, tiny_recipe, given, given, cases_a_step=3)
    with pytest.raises(UsageError, match="no prepared data here"):
        require_data(tmp_path, tiny_recipe, [], given)
    own = Index.or_empty(prepared_phantoms).data_list("evaluation")
    require_data(prepared_phantoms, tiny_recipe, own)
    with pytest.raises(UsageError, match="was prepared with spacing_mm"):
        require_data(prepared_phantoms, Recipe(), own)
    assert Index.or_empty(tmp_path).cases == {}


def test_another_number_of_kits19s_cases_is_told(tmp_path, prepared_phantoms, tiny_recipe, caplog):
    content = json.loads((prepared_phantoms / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, "name": "KiTS19"}))
    evaluation = [{}] * 42
    require_data(tmp_path, tiny_recipe, evaluation, [{}] * 168)
    assert caplog.messages == []
    require_data(tmp_path, tiny_recipe, evaluation[1:], [{}] * 168)
    assert caplog.messages == ["41 evaluation cases, KiTS19 has 42: the score is not MLPerf's"]


def test_workers_and_reruns_give_the_same_bytes(tmp_path, raw_phantoms, prepared_phantoms, tiny_recipe):
    assert prepare_dataset(raw_phantoms, tmp_path, tiny_recipe, workers=2) == {}
    assert contents(tmp_path) == contents(prepared_phantoms)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    prepare_dataset(raw_phantoms, tmp_path, tiny_recipe)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_killed_at_any_moment_it_continues_to_the_same_bytes(tmp_path, raw_phantoms, prepared_phantoms):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "prepare", "--data-dir", str(raw_phantoms)]
    command += ["--out", str(out), "--config", str(config)]
    for files in (1, 3, 6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*.npy"))) < files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert contents(out) == contents(prepared_phantoms)


def test_verify_reports_every_file(tmp_path, prepared_phantoms):
    for path in prepared_phantoms.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "case_00001_x.npy"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\1\2\3\4")
    (tmp_path / "case_00002_y.npy").unlink()
    (tmp_path / "stranger.npy").write_bytes(b"")
    outcomes = {verdict.file: verdict.outcome for verdict in verify(tmp_path)}
    assert outcomes["case_00001_x.npy"] == "different"
    assert outcomes["case_00002_y.npy"] == "missing"
    assert outcomes["stranger.npy"] == "unknown"
    assert sum(outcome == "right" for outcome in outcomes.values()) == 8


def test_without_an_index_a_folder_is_held_against_kits19(tmp_path):
    outcomes = [verdict.outcome for verdict in verify(tmp_path)]
    assert outcomes == ["missing"] * 420
    splits = [case.split for case in known_cases().values()]
    assert (splits.count("training"), splits.count("evaluation")) == (168, 42)
    evaluation = " ".join(sorted(name for name, case in known_cases().items() if case.split == "evaluation"))
    assert hashlib.md5(evaluation.encode()).hexdigest() == "540e7527ee9bfee799f394cc46655e11"


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
        (lambda i: nib.Nifti1Image(np.asarray(i.dataobj) * np.uint8(0), i.affine), "whole label is 0"),
    ],
)
def test_a_bad_label_fails_its_case_by_name_and_the_others_are_prepared(
    tmp_path, two_cases, tiny_recipe, change, reason
):
    relabel(two_cases / "case_00000" / "segmentation.nii.gz", change)
    failed = prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)
    assert list(failed) == ["case_00000"]
    assert reason in failed["case_00000"] and "case_00000/segmentation.nii.gz" in failed["case_00000"]
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_a_label_lying_elsewhere_fails_its_case(tmp_path, two_cases, tiny_recipe):
    def shifted(image):
        affine = image.affine.copy()
        affine[0, 3] += 4
        return nib.Nifti1Image(np.asarray(image.dataobj), affine)

    relabel(two_cases / "case_00000" / "segmentation.nii.gz", shifted)
    assert "lies elsewhere" in prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)["case_00000"]


def test_a_truncated_image_fails_its_case(tmp_path, two_cases, tiny_recipe):
    path = two_cases / "case_00000" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    failed = prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)
    assert "imaging.nii.gz: cannot be read" in failed["case_00000"]


def test_a_label_without_its_image_is_reported_and_the_others_are_prepared(tmp_path, two_cases, tiny_recipe):
    (two_cases / "case_00000" / "imaging.nii.gz").unlink()
    failed = prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)
    assert "case_00000/imaging.nii.gz: cannot be read" in failed["case_00000"]
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


@pytest.mark.parametrize("missing", ["segmentation.nii.gz", "imaging.nii.gz"])
def test_what_vanished_since_fails_its_case_when_run_again(tmp_path, two_cases, tiny_recipe, missing):
    assert prepare_dataset(two_cases, tmp_path / "out", tiny_recipe) == {}
    stamp = (tmp_path / "out" / "case_00001_x.npy").stat().st_mtime_ns
    (two_cases / "case_00000" / missing).unlink()
    failed = prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)
    assert list(failed) == ["case_00000"] and f"case_00000/{missing}: cannot be read" in failed["case_00000"]
    assert (tmp_path / "out" / "case_00001_x.npy").stat().st_mtime_ns == stamp


def test_a_case_that_is_listed_but_not_there_fails_by_name(tmp_path, two_cases, capsys):
    """One without its label, one without anything; a folder that no list names and that has no label is left alone."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (two_cases / "case_00000" / "segmentation.nii.gz").unlink()
    listed = {"training": ["case_00000", "case_00007"], "evaluation": ["case_00001"]}
    (two_cases / "dataset.json").write_text(json.dumps(listed))
    (two_cases / "case_00300").mkdir()
    (two_cases / "case_00300" / "imaging.nii.gz").write_bytes(b"")
    command = ["prepare", "--data-dir", str(two_cases), "--out", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    error = capsys.readouterr().err
    assert "case_00000/segmentation.nii.gz: cannot be read" in error
    assert "case_00007/imaging.nii.gz: cannot be read" in error and "case_00300" not in error
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_a_folder_without_a_list_may_hold_scans_without_labels(two_cases):
    """As KiTS19's own does: its cases beyond 210 have none."""
    (two_cases / "dataset.json").unlink()
    (two_cases / "case_00000" / "segmentation.nii.gz").unlink()
    assert [case.case_id for case in find_cases(two_cases)[1]] == ["case_00001"]


def test_other_numbers_into_the_same_folder_are_refused(tmp_path, two_cases, tiny_recipe):
    prepare_dataset(two_cases, tmp_path / "out", tiny_recipe)
    with pytest.raises(UsageError, match="choose another --out"):
        prepare_dataset(two_cases, tmp_path / "out", Recipe())


def test_a_case_in_both_splits_or_in_none_is_refused(two_cases, tmp_path):
    for content, reason in [
        ({"training": ["case_00000", "case_00001"], "evaluation": ["case_00001"]}, "both splits"),
        ({"training": ["case_00000"], "evaluation": []}, "in no split"),
        ({"training": 3}, "must be JSON"),
        ({"training": ["../case_00000"], "evaluation": ["case_00001", "case_00000"]}, "no name of a case's folder"),
        ({"training": [7], "evaluation": ["case_00001", "case_00000"]}, "no name of a case's folder"),
    ]:
        (two_cases / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=reason):
            prepare_dataset(two_cases, tmp_path / "out")


def test_opening_reads_nothing_and_writing_to_it_changes_no_file(prepared_phantoms):
    path = prepared_phantoms / "case_00000_x.npy"
    before = path.read_bytes()
    opened = OpenPreparedd("image")({"image": str(path)})["image"]
    assert isinstance(opened, np.memmap)
    opened[...] = 0
    del opened
    assert path.read_bytes() == before


def test_a_damaged_array_is_named(tmp_path):
    (tmp_path / "case_x.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CaseError, match=r"case_x\.npy"):
        OpenPreparedd("image")({"image": str(tmp_path / "case_x.npy")})


LABELLED = sorted(p.parent.name for p in (SHARED / "data" / "kits19_labels").glob("*/segmentation.nii.gz"))
QUICK = ("case_00015", "case_00037", "case_00041")  # two of them uint16 with a qform only


@pytest.mark.parametrize(
    "case_id",
    [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in LABELLED or ["case_00000"]],
)
def test_real_labels_have_the_references_md5(case_id, tmp_path):
    import hashlib

    path = shared(f"data/kits19_labels/{case_id}/segmentation.nii.gz")
    label, spacing, _ = read_volume(path)
    case = {"label": label.astype(np.uint8)[None], "image": np.zeros((1, *label.shape), np.float32), "s": spacing}
    prepared = preparation(Recipe(), source_key="s")(case)["label"]
    assert torch.is_tensor(prepared)
    with open(tmp_path / "y.npy", "wb") as stream:
        np.save(stream, np.ascontiguousarray(prepared, dtype=np.uint8))
    assert hashlib.md5((tmp_path / "y.npy").read_bytes()).hexdigest() == known_cases()[case_id].label_md5


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
        (lambda path: with_pixdim(path, np.nan), "pixdim says"),
        (lambda path: with_pixdim(path, 17.0), "pixdim says"),
        (lambda path: relabel(path, lambda i: nib.Nifti1Image(np.full(i.shape, 1e9), i.affine)), "are no HU"),
        (lambda path: path.write_bytes(b"\0" * 1000), "cannot be read"),
    ],
    ids=["rgb", "singular", "nan", "other size", "1e9", "zeros"],
)
def test_a_bad_image_fails_its_case_and_the_others_are_prepared(tmp_path, two_cases, change, reason, capsys):
    """By the command, which ends with exit code 1."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    change(two_cases / "case_00000" / "imaging.nii.gz")
    command = ["prepare", "--data-dir", str(two_cases), "--out", str(tmp_path / "out")]
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
        (29, lambda raw: relabel(raw / "segmentation.nii.gz", fractional), "unknown label values {0.5: 3}"),
        (30, lambda raw: relabel(raw / "segmentation.nii.gz", lambda i: nib.Nifti1Image(i.get_fdata() * 0, i.affine)),
         "the whole label is 0"),
    ],
)  # fmt: skip
def test_28_to_30_a_bad_label_is_exit_code_1(tmp_path, two_cases, row, break_it, reason, capsys):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    break_it(two_cases / "case_00000")
    command = ["prepare", "--data-dir", str(two_cases), "--out", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    assert reason in capsys.readouterr().err
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]


def test_31_a_case_in_both_splits_is_exit_code_2(tmp_path, two_cases, capsys):
    content = {"training": ["case_00000", "case_00001"], "evaluation": ["case_00001"]}
    (two_cases / "dataset.json").write_text(json.dumps(content))
    assert main(["prepare", "--data-dir", str(two_cases), "--out", str(tmp_path / "out")]) == 2
    assert "case_00001 in both splits" in capsys.readouterr().err
