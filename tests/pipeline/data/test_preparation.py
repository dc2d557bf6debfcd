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
from kits_unet3d.pipeline.data import Index, OpenPreprocessedd, preprocess_dataset, require_data, verify
from kits_unet3d.pipeline.data.cases import read_volume
from kits_unet3d.pipeline.data.datasets import known_cases
from kits_unet3d.pipeline.io import ReadOptions
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.transforms import PreprocessingParameters, component_boxes, preprocessing

pytestmark = pytest.mark.numeric


def contents(directory):
    """All files but the log, which has times."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".log"}


def test_the_files_are_the_references_and_the_index_tells_about_them(
    preprocessed_phantoms, raw_phantoms, tiny_parameters
):
    index = Index.read(preprocessed_phantoms)
    assert len(index.cases) == 5 and index.parameters == tiny_parameters
    assert len(index.data_list("training")) == 4 and len(index.data_list("evaluation")) == 1
    for case_id, record in index.cases.items():
        image = np.load(preprocessed_phantoms / f"{case_id}_x.npy")
        label = np.load(preprocessed_phantoms / f"{case_id}_y.npy")
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert image.shape == label.shape == (1, *record["shape"]) and min(record["shape"]) >= 32
        boxes = {str(k): [[list(axis) for axis in box] for box in v] for k, v in component_boxes(label).items()}
        assert record["boxes"] == boxes
        source = nib.load(raw_phantoms / case_id / "imaging.nii.gz")
        assert record["source_shape"] == list(source.shape)
        np.testing.assert_allclose(record["source_affine"], source.affine)
    assert {verdict.outcome for verdict in verify(preprocessed_phantoms)} == {"right"}


def test_a_case_as_it_was_stored_is_prepared_on_the_way(preprocessed_phantoms, raw_phantoms, tiny_parameters):
    case = next(
        case for case in Index.read(preprocessed_phantoms).data_list("training") if case["case_id"] == "case_00002"
    )
    directory = raw_phantoms / "case_00002"
    stored = {"image": str(directory / "imaging.nii.gz"), "label": str(directory / "segmentation.nii.gz")}
    opened, made = (OpenPreprocessedd(["image", "label"], tiny_parameters)(data) for data in (case, stored))
    for key in ("image", "label"):
        assert np.array_equal(opened[key], made[key]) and opened[key].dtype == made[key].dtype
    assert made["boxes"].keys() == case["boxes"].keys() and made["case_id"] == stored["image"]
    with pytest.raises(CaseError, match="cannot be opened"):
        OpenPreprocessedd(["image", "label"])(stored)


def test_data_lists_are_checked_and_the_directory_only_for_its_own_lists(
    preprocessed_phantoms, tiny_parameters, tmp_path
):
    given = [{"image": "a.nii.gz", "label": "b.nii.gz"}] * 2
    require_data(tmp_path, tiny_parameters, given, given, cases_a_step=2)
    with pytest.raises(UsageError, match="2 training case.*each of which needs 3"):
        require_data(tmp_path, tiny_parameters, given, given, cases_a_step=3)
    with pytest.raises(UsageError, match="contains no preprocessed data"):
        require_data(tmp_path, tiny_parameters, [], given)
    own = Index.or_empty(preprocessed_phantoms).data_list("evaluation")
    require_data(preprocessed_phantoms, tiny_parameters, own)
    with pytest.raises(UsageError, match="was preprocessed with spacing_mm"):
        require_data(preprocessed_phantoms, PreprocessingParameters(), own)
    assert Index.or_empty(tmp_path).cases == {}


def test_another_number_of_kits19s_cases_is_told(tmp_path, preprocessed_phantoms, tiny_parameters, caplog):
    content = json.loads((preprocessed_phantoms / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, "name": "KiTS19"}))
    evaluation = [{}] * 42
    require_data(tmp_path, tiny_parameters, evaluation, [{}] * 168)
    assert caplog.messages == []
    require_data(tmp_path, tiny_parameters, evaluation[1:], [{}] * 168)
    assert caplog.messages == ["41 evaluation cases, KiTS19 has 42: the score is not MLPerf's"]


def test_workers_and_reruns_give_the_same_bytes(tmp_path, raw_phantoms, preprocessed_phantoms, tiny_parameters):
    assert preprocess_dataset(raw_phantoms, tmp_path, tiny_parameters, workers=2) == {}
    assert contents(tmp_path) == contents(preprocessed_phantoms)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    preprocess_dataset(raw_phantoms, tmp_path, tiny_parameters)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_killed_at_any_moment_it_continues_to_the_same_bytes(tmp_path, raw_phantoms, preprocessed_phantoms):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "prepare", "--data-dir", str(raw_phantoms)]
    command += ["-o", str(out), "--config", str(config)]
    for files in (1, 3, 6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*.npy"))) < files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert contents(out) == contents(preprocessed_phantoms)


def test_verify_reports_every_file(tmp_path, preprocessed_phantoms):
    for path in preprocessed_phantoms.iterdir():
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


def test_verifying_a_few_of_many_files_names_only_some_missing_ones(tmp_path, preprocessed_phantoms, capsys):
    assert main(["verify", "--dataset-dir", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.count("\n") == 1 and "no preprocessed file" in printed.err
    (tmp_path / "case_00000_x.npy").write_bytes((preprocessed_phantoms / "case_00000_x.npy").read_bytes())
    assert main(["verify", "--dataset-dir", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[0] == "different case_00000_x.npy"
    assert lines[-2:] == ["missing   … and 414 more (--all lists them)", "0 right, 1 different, 419 missing, 0 unknown"]
    assert main(["verify", "--dataset-dir", str(tmp_path), "--all"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 421


def test_without_an_index_a_directory_is_held_against_kits19(tmp_path):
    outcomes = [verdict.outcome for verdict in verify(tmp_path)]
    assert outcomes == ["missing"] * 420
    splits = [case.split for case in known_cases().values()]
    assert (splits.count("training"), splits.count("evaluation")) == (168, 42)
    evaluation = " ".join(sorted(name for name, case in known_cases().items() if case.split == "evaluation"))
    assert hashlib.md5(evaluation.encode()).hexdigest() == "540e7527ee9bfee799f394cc46655e11"


def test_opening_reads_nothing_and_writing_to_it_changes_no_file(preprocessed_phantoms):
    path = preprocessed_phantoms / "case_00000_x.npy"
    before = path.read_bytes()
    opened = OpenPreprocessedd("image")({"image": str(path)})["image"]
    assert isinstance(opened, np.memmap)
    opened[...] = 0
    del opened
    assert path.read_bytes() == before


def test_a_damaged_array_is_named(tmp_path):
    (tmp_path / "case_x.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CaseError, match=r"case_x\.npy"):
        OpenPreprocessedd("image")({"image": str(tmp_path / "case_x.npy")})


LABELLED = sorted(p.parent.name for p in (SHARED / "data" / "kits19_labels").glob("*/segmentation.nii.gz"))
QUICK = ("case_00015", "case_00037", "case_00041")  # two of them uint16 with a qform only


@pytest.mark.parametrize(
    "case_id",
    [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in LABELLED or ["case_00000"]],
)
def test_real_labels_have_the_references_md5(case_id, tmp_path):
    path = shared(f"data/kits19_labels/{case_id}/segmentation.nii.gz")
    label, spacing, _ = read_volume(path, ReadOptions(hu_offset=0))  # read as if it were a scan
    case = {"label": label.astype(np.uint8)[None], "image": np.zeros((1, *label.shape), np.float32), "s": spacing}
    preprocessed = preprocessing(PreprocessingParameters(), source_key="s")(case)["label"]
    assert torch.is_tensor(preprocessed)
    with open(tmp_path / "y.npy", "wb") as stream:
        np.save(stream, np.ascontiguousarray(preprocessed, dtype=np.uint8))
    assert hashlib.md5((tmp_path / "y.npy").read_bytes()).hexdigest() == known_cases()[case_id].label_md5
