"""Preprocessed arrays: those of the reference without an index, and those that are not as their index says."""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, shared

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import (
    Index,
    OpenPreprocessedd,
    RequireClassesd,
    evaluation_list,
    folds_of,
    require_data,
    training_list,
)
from kits_unet3d.pipeline.data.datasets import known_cases
from kits_unet3d.pipeline.io import ReadOptions
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.transforms import PreprocessingParameters

CASES = ("case_00000", "case_00001", "case_00002", "case_00003")  # of both splits


@pytest.fixture
def reference(tmp_path):
    """A directory as the MLPerf reference and Cambricon's port leave it, with small arrays."""
    directory = tmp_path / "KiTS19" / "pre_data_dir"
    directory.mkdir(parents=True)
    for number, case_id in enumerate(CASES):
        label = np.zeros((1, 20 + number, 24, 24), np.uint8)
        label[0, 2:9, 3:9, 4:9], label[0, 12:15, 12:15, 12:15], label[0, 4:6, 4:6, 5:7] = 1, 1, 2
        np.save(directory / f"{case_id}_x.npy", np.zeros(label.shape, np.float32))
        np.save(directory / f"{case_id}_y.npy", label)
    return directory


def check(index):
    assert (index.name, index.parameters) == ("KiTS19", PreprocessingParameters())
    assert {case_id: case["split"] for case_id, case in index.cases.items()} == {
        case_id: known_cases()[case_id].split for case_id in CASES
    }
    assert index.cases["case_00001"]["shape"] == [21, 24, 24]
    boxes = training_list(index)[0]["boxes"]
    assert boxes == {1: [[[2, 9], [3, 9], [4, 9]], [[12, 15], [12, 15], [12, 15]]], 2: [[[4, 6], [4, 6], [5, 7]]]}


def test_the_references_arrays_are_taken_without_an_index(reference, caplog):
    assert len({known_cases()[case_id].split for case_id in CASES}) == 2
    index = Index.read(reference)
    check(index)
    require_data(reference, index.parameters, evaluation_list(index), training_list(index))
    assert len(folds_of(index.cases, 2)) == len(training_list(index))
    assert any("4 of 4 label maps differ from KiTS19's" in message for message in caplog.messages)
    opened = OpenPreprocessedd(["image", "label"])(training_list(index)[0])
    assert opened["image"].shape == opened["label"].shape == (1, 21, 24, 24)
    stamp = (reference / "index.json").stat().st_mtime_ns
    check(Index.read(reference))
    assert (reference / "index.json").stat().st_mtime_ns == stamp
    assert sorted(path.suffix for path in reference.iterdir()) == [".json"] + [".npy"] * 8


def test_several_processes_make_the_index_once(reference):
    with ThreadPoolExecutor(4) as pool:
        for index in pool.map(lambda _: Index.read(reference), range(4)):
            check(index)


def test_a_read_only_directory_has_its_index_in_the_cache(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(reference)]
    arrays = {path.name: path.read_bytes() for path in reference.iterdir()}
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root, where it may, can mount a file system")
    try:
        for name, content in arrays.items():
            (reference / name).write_bytes(content)
        subprocess.run(["mount", "-o", "remount,ro", str(reference)], check=True)
        check(Index.read(reference))
        (made,) = (tmp_path / "cache").rglob("index.json")
        stamp = made.stat().st_mtime_ns
        check(Index.read(reference))
        assert made.stat().st_mtime_ns == stamp
        subprocess.run(["mount", "-o", "remount,rw", str(reference)], check=True)
        np.save(reference / "case_00001_x.npy", np.zeros((1, 21, 24, 24), np.float32))
        subprocess.run(["mount", "-o", "remount,ro", str(reference)], check=True)
        check(Index.read(reference))
        assert made.stat().st_mtime_ns != stamp
    finally:
        subprocess.run(["umount", str(reference)], check=True)


def test_an_array_that_the_reference_would_not_write_is_refused(reference):
    label = np.load(reference / "case_00002_y.npy")
    np.save(reference / "case_00002_y.npy", label + np.uint8(5) * (label == 2))
    with pytest.raises(UsageError, match=r"case_00002_y\.npy: contains 7, but labels are 0 to 2"):
        Index.read(reference)
    np.save(reference / "case_00002_y.npy", label[:, 1:])
    with pytest.raises(UsageError, match=r"case_00002_x\.npy: has shape"):
        Index.read(reference)
    assert Index.or_empty(reference).cases == {} and not (reference / "index.json").exists()


@pytest.mark.numeric
def test_a_real_label_map_is_known_as_the_references(tmp_path, caplog):
    from kits_unet3d.pipeline.data.cases import read_volume
    from kits_unet3d.transforms import preprocessing

    path = shared("data/kits19_labels/case_00041/segmentation.nii.gz")
    label, spacing, _ = read_volume(path, ReadOptions(hu_offset=0))  # read as if it were a scan
    case = {"label": label.astype(np.uint8)[None], "image": np.zeros((1, *label.shape), np.float32), "s": spacing}
    done = np.ascontiguousarray(preprocessing(PreprocessingParameters(), source_key="s")(case)["label"], np.uint8)
    np.save(tmp_path / "case_00041_y.npy", done)
    np.save(tmp_path / "case_00041_x.npy", np.zeros(done.shape, np.float32))
    assert list(Index.read(tmp_path).cases) == ["case_00041"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def copied(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("case_00000_x.npy", lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is damaged .*bytes"),
        ("case_00000_x.npy", lambda path: np.save(path, np.zeros((1, 40, 64, 64), np.float32)), "has the shape"),
        (
            "case_00001_y.npy",
            lambda path: np.save(path, np.load(path).astype(np.int16)),
            "is damaged .holds int16, not uint8",
        ),
        ("case_00001_y.npy", lambda path: path.write_bytes(b""), "is damaged"),
        ("case_00001_y.npy", lambda path: path.unlink(), "does not exist"),
    ],
)
def test_arrays_unlike_their_index_are_refused_at_once(
    preprocessed_phantoms, tiny_parameters, tmp_path, name, change, reason
):
    directory = copied(preprocessed_phantoms, tmp_path / "copy")
    index = Index.read(directory)
    require_data(directory, tiny_parameters, index.data_list("evaluation"), index.data_list("training"))
    change(directory / name)
    with pytest.raises(UsageError, match=rf"{name}: {reason}.*verify"):
        require_data(directory, tiny_parameters, index.data_list("evaluation"), index.data_list("training"))


def test_verify_names_an_array_whose_index_has_another_shape(preprocessed_phantoms, tmp_path, capsys):
    directory = copied(preprocessed_phantoms, tmp_path / "copy")
    content = json.loads((directory / "index.json").read_text())
    content["cases"]["case_00001"]["shape"][0] += 1
    (directory / "index.json").write_text(json.dumps(content))
    assert main(["verify", "--dataset-dir", str(directory)]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == ["different case_00001_x.npy", "different case_00001_y.npy"]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(split=None),
        lambda record: record.update(boxes=None),
        lambda record: record.update(shape=None),
        lambda record: record.update(boxes={"1": [[1, 2]]}),
        lambda record: record.update(boxes={"1": [[[5, 2], [0, 3], [0, 3]]]}),
        lambda record: record.update(boxes={"1": [[[0, 400], [0, 3], [0, 3]]]}),
        lambda record: record.update(source_sha256=None),
        lambda record: record.clear(),
    ],
)
def test_an_index_without_its_values_is_refused_in_a_sentence(preprocessed_phantoms, tmp_path, change, capsys):
    content = json.loads((preprocessed_phantoms / "index.json").read_text())
    change(content["cases"]["case_00001"])
    (tmp_path / "index.json").write_text(json.dumps(content))
    (tmp_path / "case_00001_x.npy").touch()
    assert main(["verify", "--dataset-dir", str(tmp_path)]) == 2
    assert f"{tmp_path / 'index.json'}: not a usable index" in capsys.readouterr().err


def test_an_index_that_names_arrays_elsewhere_is_refused(preprocessed_phantoms, tmp_path, capsys):
    content = json.loads((preprocessed_phantoms / "index.json").read_text())
    content["cases"]["../case_00001"] = content["cases"].pop("case_00001")
    (tmp_path / "index.json").write_text(json.dumps(content))
    (tmp_path / "case_00001_x.npy").touch()
    assert main(["verify", "--dataset-dir", str(tmp_path)]) == 2
    assert "not a usable index (the name '../case_00001')" in capsys.readouterr().err


def test_deeply_nested_json_is_refused_in_a_sentence(tmp_path, capsys):
    nested = "[" * 200_000
    (tmp_path / "index.json").write_text(nested)
    (tmp_path / "dataset.json").write_text(nested)
    assert main(["verify", "--dataset-dir", str(tmp_path)]) == 2
    assert main(["prepare", "--data-dir", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "not a usable index" in error and "dataset.json: must be JSON" in error


def test_image_and_label_of_two_shapes_are_refused_when_opened(preprocessed_phantoms, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 4, 4), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((1, 4, 4, 5), np.uint8))
    with pytest.raises(CaseError, match=r"y\.npy: has the shape \(1, 4, 4, 5\), but the image has"):
        OpenPreprocessedd(["image", "label"])({"image": str(tmp_path / "x.npy"), "label": str(tmp_path / "y.npy")})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_is_no_class_ends_a_training_with_one_line(
    preprocessed_phantoms, tiny_config, tmp_path, capfd, workers
):
    directory = copied(preprocessed_phantoms, tmp_path / "copy")
    index = Index.read(directory)
    for case in index.data_list("training"):
        np.load(case["label"], mmap_mode="r+")[0, 8:24, 8:24, 8:24] = 7
    config = [str(ROOT / "bundle" / "configs" / "train.json"), str(tiny_config)]
    command = ["train", "--config", *config, "--dataset-dir", str(directory), "-o", str(tmp_path / "run")]
    assert main([*command, "--set", "device_name=cpu", f"workers={workers}"]) == 2
    error = capfd.readouterr().err
    (line,) = re.findall(r"error: .*", error)
    assert re.search(r"(case_\d+)_y\.npy: contains the value 7, but the labels of \1 must be 0 to 2; .*verify", line)
    assert "Traceback" not in error and "exception" not in error
    log = (tmp_path / "run" / "eval" / "kits-unet3d.log").read_text()
    assert line in log and "Traceback" in log and "'threads': " in log


def test_a_label_that_is_no_class_is_refused_in_an_evaluation(preprocessed_phantoms, tiny_parameters, tmp_path):
    directory = copied(preprocessed_phantoms, tmp_path / "copy")
    (case,) = Index.read(directory).data_list("evaluation")
    np.load(case["label"], mmap_mode="r+")[0, 0, 0, 0] = 3
    train = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    names = [step["_target_"] for step in train["validate"]["preprocessing"]["transforms"]]
    assert "kits_unet3d.pipeline.data.RequireClassesd" in names
    with pytest.raises(UsageError, match="contains the value 3"):
        RequireClassesd("label", tiny_parameters)(OpenPreprocessedd(["image", "label"])(case))
