"""A stand-in of the published file at full size: downloaded, converted and used by every program that predicts."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, golden, golden_weight, rng

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import Predictor
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import preprocess_dataset
from kits_unet3d.pipeline.download import Patience
from kits_unet3d.pipeline.model import read_model
from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.weights import download_weights, find_weights
from kits_unet3d.transforms import PreprocessingParameters

#: The file has 250 MB, and the network takes seconds a window.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


@pytest.fixture
def published_file(tmp_path):
    """The structure of MLPerf's file: the whole network, the optimiser's state, scores as numpy numbers."""
    network = UNet3D()
    state = {name: golden_weight(name, tuple(values.shape)) for name, values in network.state_dict().items()}
    network.load_state_dict(state)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9)
    optimiser.step()
    content = {
        "epoch": 3.0, "mean_dice": np.float64(0.9), "best_optimizer_state_dict": optimiser.state_dict(),
        "best_model_state_dict": {f"module.{name}": values for name, values in state.items()},
    }  # fmt: skip
    torch.save(content, tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.fixture
def downloaded(published_file, server):
    server.body, server.moods = published_file.read_bytes(), ["lie", "break", "stall"]
    published = replace(find_weights("mlperf-kits19"), md5=hashlib.md5(server.body).hexdigest())
    patience = Patience(timeout_s=1.0, retries=4, wait_s=0.01)
    path = download_weights(published, server.address, patience=patience)
    assert len(server.requests) == 4
    return path


def test_converted_weights_give_the_logits_of_the_reference(downloaded):
    recorded, network = golden("network"), read_model(downloaded).network.eval()
    shape = [int(n) for n in recorded["shape"]]
    image = torch.from_numpy(rng(int(recorded["seed"])).standard_normal((1, 1, *shape), dtype=np.float32))
    with torch.no_grad():
        logits = network(image)[0, :, ::8, ::8, ::8].numpy()
    assert np.abs(logits - recorded["logits_stride8"]).max() < 4e-5


def test_all_programs_predict_the_same_with_downloaded_weights(downloaded, tmp_path, capsys):
    raw, preprocessed, out = (tmp_path / name for name in ("raw", "preprocessed", "out"))
    write_dataset(raw, 2, seed=7, shape=(24, 36, 36), spacing_mm=(6.0, 4.0, 4.0))
    scan = raw / "case_00000" / "imaging.nii.gz"
    common = ["--device", "cpu", "--backend", "eager", "--no-html-report"]
    assert main(["predict", str(scan), "-o", str(out), *common]) == 0
    assert capsys.readouterr().out.startswith("model: mlperf-kits19: trained on KiTS19")
    mask = np.asarray(nib.load(out / "case_00000_seg.nii.gz").dataobj)
    assert np.array_equal(Predictor(downloaded, device="cpu", backend="eager").predict(scan).mask, mask)

    bundle = [sys.executable, "-m", "monai.bundle", "run"]
    configs = ROOT / "bundle" / "configs"
    options = {"input": scan, "output_dir": tmp_path / "bundle", "ckpt_path": downloaded, "device_name": "cpu"}
    options |= {"backend": "eager", "html_report": "False", "config_file": configs / "inference.json"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run([*bundle, "inferring", *arguments], cwd=ROOT, check=True, timeout=300)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "bundle" / "case_00000_seg.nii.gz").dataobj), mask)

    scores = tmp_path / "scores.json"
    command = ["evaluate", "--predictions", str(out), "--labels", str(raw), "--allow-missing", "-o", str(scores)]
    assert main(command) == 0
    assert set(json.loads(scores.read_text())["cases"]) == {"case_00000"}
    assert preprocess_dataset(raw, preprocessed, PreprocessingParameters()) == {}
    files = [str(configs / f"{name}.json") for name in ("train", "evaluate")]
    options = {"dataset_dir": preprocessed, "ckpt_path": downloaded, "output_dir": tmp_path / "scores"}
    options |= {"config_file": files, "device_name": "cpu"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run([*bundle, "evaluating", *arguments], cwd=ROOT, check=True, timeout=300)
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["mean"]
