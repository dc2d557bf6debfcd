"""Data sets in nnU-Net's raw layout are read and written."""

import json
import shutil

import pytest

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, classes_in, find_cases
from kits_unet3d.pipeline.data.datasets import kits23_splits
from kits_unet3d.pipeline.runtime.errors import UsageError


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory, raw_phantoms):
    directory = tmp_path_factory.mktemp("nnUNet_raw") / "Dataset001_Kidneys"
    assert main(["export", "nnunet-dataset", "--data-dir", str(raw_phantoms), "-o", str(directory)]) == 0
    return directory


def test_an_exported_data_set_is_nnunets_and_is_read_again(nnunet, raw_phantoms):
    about = json.loads((nnunet / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "kidney": 1, "tumour": 2} and about["file_ending"] == ".nii.gz"
    assert about["numTraining"] == len(list((nnunet / "imagesTr").glob("*_0000.nii.gz")))
    _, before = find_cases(raw_phantoms)
    _, after = find_cases(nnunet)
    assert [(case.case_id, case.split) for case in after] == [(case.case_id, case.split) for case in before]
    for one, other in zip(before, after, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes() and one.label.read_bytes() == other.label.read_bytes()


def test_a_data_set_of_nnunet_is_preprocessed(nnunet, tmp_path, tiny_parameters, raw_phantoms, preprocessed_phantoms):
    (tmp_path / "config.json").write_text(json.dumps(tiny_parameters.as_dict()))
    command = ["prepare", "--data-dir", str(nnunet), "-o", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 0
    for case_id in Index.read(tmp_path / "out").cases:
        name = f"{case_id}_x.npy"
        assert (tmp_path / "out" / name).read_bytes() == (preprocessed_phantoms / name).read_bytes()


def test_without_cases_for_evaluation_one_in_five_is_for_it(nnunet, tmp_path):
    shutil.copytree(nnunet, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "labelsTs")
    labels = sorted((tmp_path / "set" / "labelsTr").iterdir())
    for number in range(12):
        shutil.copy(labels[0], tmp_path / "set" / "labelsTr" / f"own_{number:05d}.nii.gz")
    for label in labels:
        label.unlink()
    _, cases = find_cases(tmp_path / "set")
    assert [case.case_id for case in cases if case.split == "evaluation"] == ["own_00000", "own_00005", "own_00010"]


def test_without_a_list_for_evaluation_cases_of_kits_keep_their_split(nnunet, tmp_path):
    shutil.copytree(nnunet, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "labelsTs")
    label = next((nnunet / "labelsTr").iterdir())
    for number in (0, 1, 2, 3, 5, 9, 400, 588):
        shutil.copy(label, tmp_path / "set" / "labelsTr" / f"case_{number:05d}.nii.gz")
    for name in ("KiTS-00006", "case_00007_0000"):
        shutil.copy(label, tmp_path / "set" / "labelsTr" / f"{name}.nii.gz")
    shutil.copy(label, tmp_path / "set" / "labelsTr" / "own.nii.gz")
    _, cases = find_cases(tmp_path / "set")
    splits = {case.case_id: case.split for case in cases}
    assert splits.pop("own") == "evaluation"
    assert splits.pop("KiTS-00006") == kits23_splits()["case_00006"]
    assert splits.pop("case_00007_0000") == kits23_splits()["case_00007"]
    assert splits == {case_id: kits23_splits()[case_id] for case_id in splits} and len(set(splits.values())) == 2


@pytest.mark.parametrize(("numbers", "split"), [((0, 3, 5), "evaluation"), ((1, 2, 4), "training")])
def test_cases_of_one_split_of_kits_need_a_list_of_the_other(nnunet, tmp_path, numbers, split):
    shutil.copytree(nnunet, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "labelsTs")
    label = next((nnunet / "labelsTr").iterdir())
    for old in (tmp_path / "set" / "labelsTr").iterdir():
        old.unlink()
    for number in numbers:
        shutil.copy(label, tmp_path / "set" / "labelsTr" / f"case_{number:05d}.nii.gz")
    assert {kits23_splits()[f"case_{number:05d}"] for number in numbers} == {split}
    with pytest.raises(UsageError, match=f"KiTS has all these cases for {split}; list cases for both splits"):
        find_cases(tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, "must have one channel"),
        ({"channel_names": {"0": "MR"}}, "its channel name is 'MR', but only CT in HU can be used"),
        ({"file_ending": ".png"}, "file_ending '.png' is not supported"),
        ({"dataset": {"a": {"label": "b"}}}, "each case of dataset must have images and a label"),
        ({"file_ending": ".nrrd"}, "no label maps"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(nnunet, tmp_path, change, message):
    shutil.copytree(nnunet, tmp_path / "set")
    about = json.loads((nnunet / "dataset.json").read_text())
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(about | change))
    with pytest.raises(UsageError, match=message):
        find_cases(tmp_path / "set")


def test_an_export_needs_its_own_source_and_keeps_foreign_files(nnunet, raw_phantoms, tmp_path, capsys):
    assert main(["export", "nnunet-dataset", "--checkpoint", "a.pt", "-o", str(tmp_path)]) == 2
    assert main(["export", "onnx", "--data-dir", "a", "-o", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert "needs --data-dir, and takes no --checkpoint" in error and "needs --checkpoint, and takes no" in error
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "other_0000.nii.gz").write_bytes(b"")
    assert main(["export", "nnunet-dataset", "--data-dir", str(raw_phantoms), "-o", str(tmp_path)]) == 2
    assert "belongs to another data set" in capsys.readouterr().err


def test_linked_files_are_links(raw_phantoms, tmp_path):
    command = ["export", "nnunet-dataset", "--data-dir", str(raw_phantoms), "-o", str(tmp_path / "set"), "--link"]
    assert main(command) == 0 and main(command) == 0
    assert all(path.is_symlink() and path.is_file() for path in (tmp_path / "set").glob("*/*"))


def test_an_export_never_replaces_its_own_source(nnunet, tmp_path, capsys):
    """A link over the only copy of a scan would lose it."""
    shutil.copytree(nnunet, tmp_path / "set")
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").rglob("*.nii.gz")}
    command = ["export", "nnunet-dataset", "--link", "--data-dir"]
    assert main([*command, str(tmp_path / "set"), "-o", str(tmp_path / "set")]) == 2
    assert main([*command, str(tmp_path / "set"), "-o", str(tmp_path / "linked")]) == 0
    assert main([*command, str(tmp_path / "linked"), "-o", str(tmp_path / "set")]) == 2
    assert "is the data set itself, or linked to it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").rglob("*.nii.gz")} == before


def test_cases_that_need_corrections_are_not_exported_as_they_are(nnunet, tmp_path, capsys):
    case = {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz", "hu_offset": -1024}
    other = {"image": "imagesTr/b_0000.nii.gz", "label": "labelsTr/b.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [case], "validation": [other]}))
    assert main(["export", "nnunet-dataset", "--data-dir", str(tmp_path / "list.json"), "-o", str(tmp_path / "o")]) == 2
    assert "the data list corrects its header" in capsys.readouterr().err


def test_hidden_files_are_no_cases(nnunet, tmp_path):
    shutil.copytree(nnunet, tmp_path / "set")
    (tmp_path / "set" / "labelsTr" / "._case_00000.nii.gz").write_bytes(b"")
    assert len(find_cases(tmp_path / "set")[1]) == len(find_cases(nnunet)[1])


def relabelled(nnunet, directory, labels):
    shutil.copytree(nnunet, directory)
    about = json.loads((nnunet / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps(about | {"labels": labels}))
    return directory


def test_an_export_keeps_the_names_of_the_classes(nnunet, tmp_path):
    named = {"background": 0, "spleen": 1, "lesion": 2}
    source = relabelled(nnunet, tmp_path / "set", named)
    assert main(["export", "nnunet-dataset", "--data-dir", str(source), "-o", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == named


def test_voxels_to_ignore_are_refused_and_tumor_is_tumour(nnunet, tmp_path):
    with pytest.raises(UsageError, match="the label ignore marks unknown voxels; remove it and its cases"):
        classes_in(relabelled(nnunet, tmp_path / "a", {"background": 0, "kidney": 1, "ignore": 2}))
    spelt = relabelled(nnunet, tmp_path / "b", {"background": 0, "kidney": 1, "tumor": 2})
    assert classes_in(spelt) == ("background", "kidney", "tumour")


KITS23 = ("background", "kidney", "tumour", "cyst")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, KITS23),  # as nnU-Net converts KiTS23
        ({"background": 0, "kidney": [1, 2, 3], "tumour": 2, "cyst": [3]}, KITS23),
        ({"background": 0, "kidney": [1, 2], "tumor": [2]}, KITS23[:3]),
        ({"background": 0, "abdomen": [1, 2], "spleen": 1}, ("background", "spleen", "abdomen")),
        ({"background": 0, "all": [1, 2], "kidney": 1, "tumour": 2}, KITS23[:3]),
    ],
)
def test_regions_name_the_values_that_they_alone_have(nnunet, tmp_path, labels, names):
    assert classes_in(relabelled(nnunet, tmp_path / "set", labels)) == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "kidney": [1, 2]}, 'names its values 1 and 2; add a label of its own .* "tumour": 2'),
        ({"background": 0, "a": [1, 2], "b": [2, 3]}, "the region a is all that names its values 1 and 2"),
        ({"background": 0, "kidney": ["x"]}, "the label kidney must have whole numbers"),
        ({"background": 0, "kidney": []}, "the label kidney must have whole numbers"),
    ],
)
def test_regions_that_leave_a_value_without_a_name_are_refused(nnunet, tmp_path, labels, message):
    with pytest.raises(UsageError, match=rf"dataset\.json: .*{message}"):
        classes_in(relabelled(nnunet, tmp_path / "set", labels))


def test_prepare_and_its_fingerprint_agree_on_regions(nnunet, tmp_path, tiny_parameters, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({n: v for n, v in tiny_parameters.as_dict().items() if n != "classes"}))
    found = []
    for number, regions in enumerate(({"body": [1, 2], "lesion": 2}, {"body": [1, 2]})):
        command = ["prepare", "--data-dir", str(relabelled(nnunet, tmp_path / str(number), {"back": 0, **regions}))]
        out, file = tmp_path / f"out{number}", tmp_path / f"{number}.json"
        found.append(
            [main([*command, "-o", str(out), "--config", str(config)]), main([*command, "--fingerprint", str(file)])]
        )
    assert found == [[0, 0], [2, 2]] and not (tmp_path / "1.json").exists()
    assert capsys.readouterr().err.count("the region body is all that names its values 1 and 2") == 2
    names = ["back", "body", "lesion"]
    assert list(Index.read(tmp_path / "out0").parameters.classes) == names
    assert json.loads((tmp_path / "0.json").read_text())["classes"] == names
