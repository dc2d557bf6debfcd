"""The bundle as MONAI runs it: real processes, real files, from the repository's root and from inside the bundle."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from dicoms import write_series
from monai.bundle import ConfigParser

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.model import read_model
from kits_unet3d.transforms import PreprocessingParameters

CONFIGS = ROOT / "bundle" / "configs"


def bundle(run_id, config, cwd=ROOT, **overrides):
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", config]
    command += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, preprocessed_phantoms, tiny_config):
    directory = tmp_path_factory.mktemp("trained")
    done = bundle(
        "training", f"['bundle/configs/train.json','{tiny_config}']",
        dataset_dir=preprocessed_phantoms, ckpt_dir=directory, output_dir=directory / "eval", device_name="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return directory, done


def test_training_leaves_checkpoints_that_say_what_they_are(trained):
    directory, done = trained
    model = read_model(directory / "model.pt")
    assert model.parameters == PreprocessingParameters.from_dict(TINY) and model.network.channels == (4, 8, 8)
    content = torch.load(directory / "model_final.pt", weights_only=True)
    assert (content["epoch"], content["iteration"]) == (2, 4)
    assert content["device"]["device"] == "cpu"
    assert set(content["optimizer"]) == {"state", "param_groups"}
    fresh = read_model(directory / "nothing.pt", lambda: type(model.network)(channels=(4, 8, 8)), missing_ok=True)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.network.parameters(), fresh.network.parameters(), strict=True)
    )
    assert "mean_dice" in done.stdout
    assert list((directory / "eval").glob("events.out.tfevents*"))


def test_training_repeats_itself_from_its_seed(trained, tmp_path, preprocessed_phantoms, tiny_config):
    done = bundle(
        "training", f"['configs/train.json','{tiny_config}']", cwd=ROOT / "bundle",
        dataset_dir=preprocessed_phantoms, ckpt_dir=tmp_path, output_dir=tmp_path / "eval", device_name="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(f / "model_final.pt", weights_only=True)["model"] for f in (trained[0], tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "bundle"])
def test_the_bundle_and_the_command_line_write_the_same_mask(trained, tmp_path, raw_phantoms, cwd):
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    checkpoint = trained[0] / "model.pt"
    config = os.path.relpath(CONFIGS / "inference.json", cwd)
    done = bundle(
        "inferring", config, cwd, input=scan, output_dir=tmp_path / "a", ckpt_path=checkpoint, device_name="cpu"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        main(["predict", str(scan), "-o", str(tmp_path / "b"), "--checkpoint", str(checkpoint), "--device", "cpu"]) == 0
    )
    masks = [nib.load(tmp_path / f / "case_00003_seg.nii.gz") for f in "ab"]
    assert (tmp_path / "a" / "case_00003_seg.nii.gz").read_bytes() == (
        tmp_path / "b" / "case_00003_seg.nii.gz"
    ).read_bytes()
    assert masks[0].shape == nib.load(scan).shape and np.array_equal(masks[0].affine, nib.load(scan).affine)


def test_what_a_message_offers_can_be_given_to_the_bundle(trained, tmp_path):
    voxels = np.full((8, 10, 12), 100, np.int16)
    voxels[:, 0] = -1000
    write_series(tmp_path / "in" / "Doe_Jane", voxels, leave_out=[3])
    options = {"input": tmp_path / "in", "output_dir": tmp_path / "out", "device_name": "cpu"}
    options["ckpt_path"] = trained[0] / "model.pt"
    done = bundle("inferring", "bundle/configs/inference.json", **options, html_report=False)
    assert done.returncode == 1 and "--allow-gaps" in done.stderr and "Doe" not in done.stderr
    options |= {"allow_gaps": True, "keep_names": True, "probabilities": True, "max_memory": "8GB", "series": 1}
    done = bundle("inferring", "bundle/configs/inference.json", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"Doe_Jane_seg.nii.gz", "Doe_Jane_seg.png", "Doe_Jane_probabilities.npy", "report.html"} <= files


def test_an_unwritable_output_directory_is_found_before_model_loading(tmp_path):
    (tmp_path / "file").touch()
    done = bundle("inferring", "bundle/configs/inference.json", input=tmp_path, output_dir=tmp_path / "file" / "out",
                  ckpt_path=tmp_path / "none.pt", device_name="cpu")  # fmt: skip
    assert done.returncode == 2 and "nothing can be written there" in done.stderr


def test_inference_without_a_trained_model_writes_nothing(tmp_path, raw_phantoms):
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    done = bundle("inferring", "bundle/configs/inference.json", input=scan, output_dir=tmp_path / "o",
                  ckpt_path=tmp_path / "none.pt", device_name="cpu")  # fmt: skip
    assert done.returncode == 3 and "none.pt: no such checkpoint" in done.stderr
    assert not (tmp_path / "o").exists()


def test_without_data_one_sentence_names_prepare_and_the_demo(tmp_path):
    done = bundle("training", "bundle/configs/train.json", dataset_dir=tmp_path / "none", device_name="cpu")
    assert done.returncode == 2
    assert "kits-unet3d prepare" in done.stderr and "scripts/quickstart.sh" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_of_another_spacing_are_refused(preprocessed_phantoms, tmp_path):
    done = bundle("training", "bundle/configs/train.json", dataset_dir=preprocessed_phantoms, device_name="cpu")
    assert done.returncode == 2 and "spacing_mm" in done.stderr and "prepare" in done.stderr


def test_the_default_directory_follows_the_references_variable(monkeypatch):
    parser = ConfigParser()
    parser.read_config(CONFIGS / "train.json")
    assert parser.get_parsed_content("dataset_dir") == "data"
    monkeypatch.setenv("PYTORCH_TRAIN_DATASET", "somewhere")
    parser = ConfigParser()
    parser.read_config(CONFIGS / "train.json")
    assert parser.get_parsed_content("dataset_dir") == os.path.join("somewhere", "KiTS19", "pre_data_dir")


def test_configuration_and_recipe_agree():
    parser = ConfigParser()
    parser.read_config(CONFIGS / "train.json")
    assert parser.get_parsed_content("preprocessing_parameters") == PreprocessingParameters()
