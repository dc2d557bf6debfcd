"""Another organ, other classes, another patch, a data list: by configuration alone, as docs/other_data.md shows it."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, rng
from monai.bundle import ConfigParser, run

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, find_cases
from kits_unet3d.pipeline.export import describe
from kits_unet3d.pipeline.model import read_model
from kits_unet3d.pipeline.runtime.errors import UsageError

OVERLAY = {
    "classes": ["background", "spleen"],
    "spacing_mm": [8.0, 6.0, 6.0],
    "hu_window": [-160.0, 240.0],
    "hu_mean": 100.0,
    "hu_std": 40.0,
    "padding_value": -6.5,
    "roi_size": [16, 32, 32],
    "channels": [4, 8],
    "workers": 0,
    "batch_size": 2,
    "learning_rate": 0.1,
    "warmup_epochs": 1,
    "epochs": 12,
    "first_evaluation": 12,
    "evaluate_every": 12,
    "quality_threshold": 1.1,
}


def write_spleen(directory, name, seed):
    """A body with one bright organ on its left side, (X, Y, Z) in RAS."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in (48, 40, 20)), indexing="ij"))
    body = (((where[0] - 24) / 20) ** 2 + ((where[1] - 20) / 16) ** 2) < 1
    centre = np.array([14, 16, 10]) + rng(seed).integers(-2, 3, 3)
    organ = (((where - centre[:, None, None, None]) / np.array([5, 5, 4])[:, None, None, None]) ** 2).sum(0) < 1
    voxels = np.where(organ, 130, np.where(body, 30, -1000)) + rng(seed).normal(0, 10, body.shape)
    affine = np.diag([6.0, 6.0, 8.0, 1.0])
    paths = {"image": directory / f"images/{name}.nii.gz", "label": directory / f"labels/{name}.nii.gz"}
    for key, values in {"image": voxels.astype(np.int16), "label": organ.astype(np.uint8)}.items():
        paths[key].parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), paths[key])
    return {key: str(path.relative_to(directory)) for key, path in paths.items()}


@pytest.fixture(scope="module")
def spleens(tmp_path_factory):
    directory = tmp_path_factory.mktemp("Task09_Spleen")
    cases = [write_spleen(directory, f"spleen_{number}", number) for number in range(6)]
    content = {"name": "Spleen", "training": cases[:5], "validation": cases[5:]}
    (directory / "dataset.json").write_text(json.dumps(content))
    return directory


def labelled_hu(directory):
    """The HU of all labelled voxels of the training cases."""
    cases = json.loads((directory / "dataset.json").read_text())["training"]
    arrays = [[nib.load(directory / case[key]).get_fdata() for key in ("image", "label")] for case in cases]
    return np.concatenate([image[label > 0] for image, label in arrays])


def test_the_statistics_of_a_data_set_become_its_configuration(spleens, tmp_path, capsys):
    described = spleens / "described.json"
    content = json.loads((spleens / "dataset.json").read_text())
    described.write_text(json.dumps({**content, "labels": {"0": "background", "1": "spleen"}}))
    file = tmp_path / "proposed.json"
    assert main(["prepare", "--data-dir", str(described), "--fingerprint", str(file)]) == 0
    proposed, hu = json.loads(file.read_text()), labelled_hu(spleens)
    low, high = np.percentile(hu, [0.5, 99.5], method="inverted_cdf")
    assert proposed["hu_window"] == [low, high] and proposed["spacing_mm"] == [8.0, 6.0, 6.0]
    assert proposed["hu_mean"] == pytest.approx(np.clip(hu, low, high).mean(), abs=0.006)
    assert proposed["hu_std"] == pytest.approx(np.clip(hu, low, high).std(), abs=0.006)
    assert proposed["padding_value"] == pytest.approx((low - hu.mean()) / hu.std(), abs=0.05)
    assert (
        proposed["classes"] == ["background", "spleen"] and f"hu_mean: {proposed['hu_mean']}" in capsys.readouterr().out
    )
    out = tmp_path / "out"
    assert main(["prepare", "--data-dir", str(described), "-o", str(out), "--config", str(file)]) == 0
    assert Index.read(out).parameters.hu_mean == proposed["hu_mean"]
    assert main(["prepare", "--data-dir", str(spleens)]) == 2 and "-o/--output-dir" in capsys.readouterr().err


def test_options_without_use_beside_fingerprint_are_refused(spleens, tmp_path, capsys):
    command = ["prepare", "--data-dir", str(spleens), "--fingerprint", str(tmp_path / "a.json")]
    config = str(ROOT / "bundle" / "configs" / "kits23.json")
    for given in (["-o", str(tmp_path / "out")], ["--config", config], ["--workers", "2"], ["--max-memory", "8GB"]):
        assert main([*command, *given]) == 2
        assert "has no use with --fingerprint" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_data_list_of_another_modality_is_refused(spleens, tmp_path, capsys):
    content = json.loads((spleens / "dataset.json").read_text())
    command = ["prepare", "--data-dir", str(spleens / "modality.json"), "--fingerprint", str(tmp_path / "a.json")]
    for modality, code in (({"0": "MRI"}, 2), ({"0": "CT"}, 0)):
        (spleens / "modality.json").write_text(json.dumps({**content, "modality": modality}))
        assert main(command) == code
    assert "modality.json: its modality is 'MRI', but only CT" in capsys.readouterr().err


def test_a_case_that_cannot_be_read_is_left_out_of_the_statistics(spleens, tmp_path, capsys):
    content = json.loads((spleens / "dataset.json").read_text())
    content["training"][0]["label"] = "labels/missing.nii.gz"
    (spleens / "one_missing.json").write_text(json.dumps(content))
    command = ["prepare", "--data-dir", str(spleens / "one_missing.json"), "--fingerprint", str(tmp_path / "a.json")]
    assert main(command) == 1 and "failed: " in capsys.readouterr().err
    assert json.loads((tmp_path / "a.json").read_text())["classes"] == ["background", "class_1"]


def test_another_organ_is_prepared_trained_predicted_scored_and_described(spleens, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    overlay = tmp_path / "spleen.json"
    overlay.write_text(json.dumps(OVERLAY))
    preprocessed, models, masks = tmp_path / "preprocessed", tmp_path / "models", tmp_path / "masks"
    assert main(["prepare", "--data-dir", str(spleens), "-o", str(preprocessed), "--config", str(overlay)]) == 0
    assert main(["verify", "--dataset-dir", str(preprocessed)]) == 0
    assert Index.read(preprocessed).parameters.classes == ("background", "spleen")
    run(
        "training", config_file=[str(ROOT / "bundle" / "configs" / "train.json"), str(overlay)], logging_file=False,
        dataset_dir=str(preprocessed), ckpt_dir=str(models), output_dir=str(tmp_path / "eval"), device_name="cpu",
    )  # fmt: skip
    model = read_model(models / "model.pt")
    assert model.parameters.classes == ("background", "spleen") and model.parameters.padding_value == -6.5
    assert model.network.output.conv.out_channels == 2
    best = torch.load(models / "model.pt", weights_only=True)["best"]
    assert best > 0.5  # bright on dark is learnt at once

    scan = spleens / "images" / "spleen_5.nii.gz"
    assert main(["predict", str(scan), "-o", str(masks), "--checkpoint", str(models / "model.pt")]) == 0
    report = json.loads((masks / "summary.json").read_text())["cases"]["spleen_5"]
    assert set(report["volumes_ml"]) == {"spleen"} and not any("kidney" in flag for flag in report["flags"])
    capsys.readouterr()
    labels = ["--allow-missing", "--labels", str(spleens / "labels"), "--predictions", str(masks), "--json"]
    assert main(["evaluate", *labels, "--structures", "spleen=1"]) == 0
    scores = json.loads(capsys.readouterr().out)["cases"]["spleen_5"]
    assert scores["spleen_dice"] > 0.5 and not any("kidney" in name for name in scores)

    metadata = describe(models / "model.pt", ROOT / "bundle").configs["metadata"]
    assert metadata["eval_metrics"] == {"mean_dice": best}
    assert metadata["label_classes"] == "0 background, 1 spleen"
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 2

    evaluating = [str(ROOT / "bundle" / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    run(
        "evaluating", config_file=evaluating, logging_file=False, dataset_dir=str(preprocessed), device_name="cpu",
        ckpt_path=str(models / "model.pt"), output_dir=str(tmp_path / "scores"),
    )  # fmt: skip
    again = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert again["mean"]["mean_dice"] == pytest.approx(best, abs=1e-6)
    assert list(again["cases"]) == ["spleen_5"] and "L2_dice" not in again["mean"]


def test_a_data_list_gives_cases_paths_and_splits(spleens, tmp_path):
    name, cases = find_cases(spleens)
    assert name == "Spleen" and {case.split for case in cases[:5]} == {"training"}
    assert (cases[5].case_id, cases[5].split) == ("spleen_5", "evaluation")
    assert cases[5].label == spleens / "labels" / "spleen_5.nii.gz"
    other = spleens / "my_split.json"
    content = json.loads((spleens / "dataset.json").read_text())
    other.write_text(json.dumps({"training": content["training"]}))
    _, cases = find_cases(other)
    assert [case.split == "evaluation" for case in cases] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(validation=c["training"][:1]), "spleen_0 in both splits"),
        (lambda c: c["training"].append(c["training"][0]), "lists spleen_0 twice"),
        (lambda c: c["training"].append({"image": "elsewhere/spleen_0.nii.gz", "label": "l.nii.gz"}), "spleen_0 twice"),
        (lambda c: c["training"][0].pop("label"), "one image and one label"),
        (lambda c: c["training"][0].update(image=["a.nii.gz", "b.nii.gz"]), "one image and one label"),
        (lambda c: c.update(training=[]), "lists no case"),
        (lambda c: c.pop("training"), "must be JSON with the lists"),
    ],
)
def test_a_data_list_that_cannot_be_used_is_refused(spleens, tmp_path, change, message):
    content = json.loads((spleens / "dataset.json").read_text())
    change(content)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        find_cases(tmp_path)


def test_every_number_of_the_recipe_is_a_key_of_the_configuration():
    parser = ConfigParser()
    parser.read_config(ROOT / "bundle" / "configs" / "train.json")
    parameters = parser.get_parsed_content("preprocessing_parameters").as_dict()
    assert {name: parser.get_parsed_content(name) for name in parameters} == parameters


@pytest.mark.parametrize("given", ["kidney", "kidney=0", "left_kidney=1", "=1", "kidney=a"])
def test_a_structure_is_a_name_and_its_classes(given, capsys):
    assert main(["evaluate", "--predictions", ".", "--labels", ".", "--structures", given]) == 2
    assert "--structures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"hu_ofset": -1024}, "the entry hu_ofset is unknown; the nearest known one is hu_offset"),
        ({"allow_gaps": "false"}, "allow_gaps must be true or false, got 'false'"),
        ({"hu_offset": True}, "hu-offset must be a number of HU"),
        ({"hu_offset": "-1024"}, "hu-offset must be a number of HU"),
        ({"volume": "2"}, "volume must be a whole number of 1 or more, got '2'"),
    ],
)
def test_an_option_of_a_case_has_a_known_name_and_type(spleens, tmp_path, entry, message):
    content = json.loads((spleens / "dataset.json").read_text())
    content["training"][0] |= entry
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        find_cases(tmp_path / "list.json")


def test_a_list_of_one_case_leaves_nothing_to_train_on(spleens, tmp_path):
    content = json.loads((spleens / "dataset.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps({"training": content["training"][:1]}))
    with pytest.raises(UsageError, match="lists one case, but training and evaluation need one each"):
        find_cases(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "background", "1": "$print(1)"}, "begin with $, @ or %"),
        ({"0": "background", "2": "spleen"}, "has no name for 1"),
        ({"background": 0}, "its label maps contain 1"),
        ({"0": "spleen", "1": "spleen"}, "two or more different names"),
    ],
)
def test_names_that_do_not_fit_the_label_maps_are_refused(spleens, tmp_path, capsys, labels, message):
    content = json.loads((spleens / "dataset.json").read_text())
    (spleens / "named.json").write_text(json.dumps({**content, "labels": labels}))
    command = ["prepare", "--data-dir", str(spleens / "named.json"), "--fingerprint", str(tmp_path / "a.json")]
    assert main(command) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
    assert main([*command[:-1], str(tmp_path)]) == 2 and "is a directory" in capsys.readouterr().err
