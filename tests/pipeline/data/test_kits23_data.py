"""KiTS23's layout, classes, splits and download."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import TINY
from niftis import ct, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, classes_in, find_cases
from kits_unet3d.pipeline.data.datasets import kits23_splits, known_cases
from kits_unet3d.pipeline.download import case_ids, challenge, download_dataset, summary
from kits_unet3d.pipeline.runtime.errors import UsageError

FOUR = ("background", "kidney", "tumour", "cyst")


def case(directory, number, cyst=False, image=True, instances=False):
    """Write a case of KiTS's layout with a kidney, a tumour, and a cyst if wanted."""
    place = directory / f"case_{number:05d}"
    place.mkdir(parents=True)
    label = np.zeros(ct().shape, np.uint8)
    label[3:9, 3:9, 2:8] = 1
    label[3:5, 3:5, 2:4] = 2
    label[7:9, 7:9, 6:8] = 3 if cyst else 1
    nifti(place / "segmentation.nii.gz", label)
    if image:
        nifti(place / "imaging.nii.gz", ct() + np.int16(number))
    if instances:
        (place / "instances").mkdir()
        nifti(place / "instances" / "kidney_instance-1_annotation-1.nii.gz", label)
    return directory


def test_evaluation_cases_of_kits19_are_evaluation_cases_of_kits23():
    splits = kits23_splits()
    assert len(splits) == 489 and max(splits) == "case_00588"
    assert all(splits[case_id] == known.split for case_id, known in known_cases().items())
    others = Counter(split for case_id, split in splits.items() if case_id not in known_cases())
    assert others == {"training": 223, "evaluation": 56}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("KiTS19", [{"number": 3}, {"number": 9}]),
        ("KiTS23", [{"number": 3}, {"number": 9, "cyst": True}]),
        ("KiTS23", [{"number": 3}, {"number": 9, "instances": True}]),
        ("KiTS23", [{"number": 3}, {"number": 412}]),
        ("KiTS23", [{"number": 3}, {"number": 250}]),
    ],
)
def test_kits23_is_told_from_kits19_by_what_only_it_has(tmp_path, name, written):
    for one in written:
        case(tmp_path, **one)
    found, cases = find_cases(tmp_path)
    assert found == name and [one.case_id for one in cases] == [f"case_{one['number']:05d}" for one in written]
    assert classes_in(tmp_path) == (FOUR if name == "KiTS23" else FOUR[:3])


def test_a_download_is_known_by_its_manifest(tmp_path):
    case(tmp_path, 3)
    (tmp_path / "download.json").write_text(json.dumps({"name": "KiTS23", "files": {}}))
    assert find_cases(tmp_path)[0] == "KiTS23"


@pytest.fixture
def raw(tmp_path):
    """Return three cases of KiTS23: one for evaluation, as in KiTS19, and two with cysts."""
    for number, cyst in ((0, False), (2, True), (401, True)):
        case(tmp_path / "raw", number, cyst=cyst, instances=True)
    return tmp_path / "raw"


def prepare(raw, out, **config):
    path = out.with_suffix(".json")
    path.write_text(json.dumps(TINY | config))
    return main(["prepare", "--data-dir", str(raw), "-o", str(out), "--config", str(path)])


def test_prepare_finds_the_four_classes_and_verify_agrees(raw, tmp_path, capsys):
    assert prepare(raw, tmp_path / "out") == 0
    index = Index.read(tmp_path / "out")
    assert (index.name, index.parameters.classes) == ("KiTS23", FOUR)
    assert set(index.cases["case_00401"]["boxes"]) == {"1", "2", "3"}
    splits = {case_id: record["split"] for case_id, record in index.cases.items()}
    assert splits == {case_id: kits23_splits()[case_id] for case_id in splits}
    assert main(["verify", "--dataset-dir", str(tmp_path / "out")]) == 0
    assert "6 right" in capsys.readouterr().out


def test_a_cyst_in_a_run_of_three_classes_names_the_preset(raw, tmp_path, capsys):
    assert prepare(raw, tmp_path / "out", classes=list(FOUR[:3])) == 1
    failed = capsys.readouterr()
    assert "unknown label values {3.0: 8}" in failed.err + failed.out and "--config kits23" in failed.err + failed.out
    assert prepare(raw, tmp_path / "four") == 0
    with pytest.raises(UsageError, match="train, dynunet_ds and kits23"):
        Index.read(tmp_path / "four").require(type(Index.read(tmp_path / "four").parameters)(**TINY))


def test_a_data_list_names_its_own_classes(tmp_path):
    case(tmp_path, 0, cyst=True)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"training": ["case_00000"], "evaluation": [], "classes": list(FOUR)})
    )
    assert classes_in(tmp_path) == classes_in(tmp_path / "dataset.json") == FOUR


def test_kits23_is_downloaded_from_its_own_repository(tmp_path):
    sources = challenge("kits23").sources
    assert sources.url("labels", "case_00588").endswith("neheller/kits23/main/dataset/case_00588/segmentation.nii.gz")
    assert sources.url("images", "case_00588") == challenge("kits19").sources.url("images", "case_00588")
    assert len(case_ids([], "kits23")) == len(case_ids(["0-588"], "kits23")) == 489
    with pytest.raises(UsageError, match="0 to 299 and 400 to 588"):
        case_ids(["300"], "kits23")
    assert "KiTS23: labels of 2 cases" in summary(tmp_path, ["a", "b"], ["labels"], "kits23")


def test_two_data_sets_are_not_downloaded_into_one_directory(tmp_path):
    (tmp_path / "download.json").write_text(json.dumps({"name": "KiTS19", "files": {}}))
    with pytest.raises(UsageError, match="contains KiTS19; choose another"):
        download_dataset(tmp_path, ["case_00003"], ["labels"], dataset="kits23")
