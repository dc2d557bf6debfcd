"""The bundle's workflows by MONAI's own commands: complete, and run from wherever one stands."""

import json
import os
import subprocess
import sys

import nibabel as nib
import pytest
import torch
from conftest import BELOW, CONFIGS, OVERLAYS, ROOT, bundle_config
from monai.bundle import ConfigWorkflow, run, run_workflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture(params=["repository", "bundle", "elsewhere"])
def where(request, monkeypatch, tmp_path):
    """Working directories a user may stand in, with the overrides needed there."""
    directory = {"repository": ROOT, "bundle": ROOT / "bundle", "elsewhere": tmp_path}[request.param]
    monkeypatch.chdir(directory)
    return {"bundle_root": str(ROOT / "bundle")} if request.param == "elsewhere" else {}


def workflow(names, kind, **overrides):
    made = ConfigWorkflow(
        [str(CONFIGS / f"{name}.json") for name in names], logging_file=False, workflow_type=kind,
        device_name="cpu", **overrides,
    )  # fmt: skip
    made.initialize()
    return made


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_no_property_of_a_training_is_missing(overlay, where, preprocessed_phantoms, tiny_checkpoint):
    names = ["train", *BELOW.get(overlay, []), *([overlay] if overlay else [])]
    if overlay is not None and "ckpt_path" in bundle_config(overlay):
        where = {**where, "ckpt_path": str(tiny_checkpoint)}
    made = workflow(names, "train", dataset_dir=str(preprocessed_phantoms), workers=0, **where)
    assert made.check_properties() == []
    assert made.initialize() == made.initialize()  # consumers call it more than once


def test_no_property_of_an_inference_is_missing(where, raw_phantoms):
    made = workflow(["inference"], "infer", input=str(raw_phantoms / "case_00000" / "imaging.nii.gz"), **where)
    assert made.check_properties() == []


@pytest.mark.parametrize(
    ("where", "overlay"),
    [
        *((directory, None) for directory in ("repository", "bundle", "elsewhere")),
        *(("repository", overlay) for overlay in ("adam", "lamb", "images", "demo")),
    ],
    indirect=["where"],
)
def test_run_workflow_trains_from_any_directory(
    where, overlay, tmp_path, monkeypatch, preprocessed_phantoms, tiny_config
):
    monkeypatch.setattr(sys, "path", list(sys.path))  # MONAI adds the bundle's directory
    names = ["train", *BELOW.get(overlay, []), *([overlay] if overlay else [])]
    files = [os.path.relpath(CONFIGS / f"{name}.json") for name in names]  # as one would type them there
    options = {"dataset_dir": str(preprocessed_phantoms), "ckpt_dir": str(tmp_path / "models"), "device_name": "cpu"}
    options |= {"output_dir": str(tmp_path / "eval"), "epochs": 1, **where}
    run_workflow(workflow_type="train", config_file=[*files, str(tiny_config)], logging_file=False, **options)
    content = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    optimizer = content["configuration"]["optimizer"]["name"]
    assert optimizer == {"adam": "Adam", "lamb": "Lamb"}.get(overlay, "SGD")
    events = EventAccumulator(str(tmp_path / "eval")).Reload().Tags()
    assert events["scalars"] and bool(events["images"]) == (overlay == "images")


@pytest.mark.slow
def test_a_scan_is_segmented_from_any_directory(copied_bundle, monkeypatch, tmp_path, raw_phantoms):
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    root = {"bundle_root": str(copied_bundle)}
    monkeypatch.setattr(sys, "path", list(sys.path))  # run() adds the bundle's directory
    monkeypatch.chdir(copied_bundle)
    config = str(copied_bundle / "configs" / "inference.json")
    common = {"input": str(scan), "device_name": "cpu", "config_file": config}
    run("inferring", logging_file=False, output_dir=str(tmp_path / "in"), **common)
    monkeypatch.chdir(tmp_path)
    run(logging_file=False, output_dir=str(tmp_path / "out"), **common, **root)
    command = [sys.executable, "-m", "monai.bundle", "run_workflow", "--workflow_type", "infer"]
    overrides = {**common, **root, "output_dir": tmp_path / "flow"}
    command += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    masks = [(tmp_path / f / "case_00003_seg.nii.gz").read_bytes() for f in ("in", "out", "flow")]
    assert masks[0] == masks[1] == masks[2]
    assert nib.load(tmp_path / "in" / "case_00003_seg.nii.gz").shape == nib.load(scan).shape


@pytest.mark.slow
@pytest.mark.parametrize("command", [["run"], ["run_workflow", "--workflow_type", "train"]])
@pytest.mark.parametrize("names", [["train"], ["train", "evaluate"], ["train", "benchmark"], ["train", "multi_device"]])
def test_every_other_run_works_from_elsewhere(
    command, names, copied_bundle, tmp_path, preprocessed_phantoms, tiny_config
):
    files = [str(copied_bundle / "configs" / f"{name}.json") for name in names]
    files.insert(1, str(tiny_config))
    options = {"config_file": str(files), "bundle_root": copied_bundle, "dataset_dir": preprocessed_phantoms}
    options |= {"device_name": "cpu", "output_dir": tmp_path / "out"}
    if "benchmark" in names:
        options |= {"benchmark_steps": 2, "warmup_steps": 1}
    line = [sys.executable, "-m", "monai.bundle", *command]
    line += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_bad_scan_stops_no_other_and_the_bundle_ends_with_exit_code_1(copied_bundle, tmp_path, raw_phantoms):
    scans = tmp_path / "in"
    scans.mkdir()
    (scans / "a.nii.gz").write_bytes(b"nothing")
    for number in (1, 3):
        (scans / f"case_{number}.nii.gz").symlink_to(raw_phantoms / f"case_0000{number}" / "imaging.nii.gz")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    options = {"input": scans, "output_dir": tmp_path / "out", "device_name": "cpu", "min_tumour_mm3": 1e9}
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=copied_bundle, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "1 of 3 scans failed (a)" in done.stderr, done.stderr[-3000:]
    cases = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]
    assert [case["outcome"] == "failed" for case in cases.values()] == [True, False, False]
    assert cases["case_1"]["volumes_ml"]["tumour"] == 0
    options["input"] = tmp_path / "nowhere"
    command[-8:] = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=copied_bundle, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.rstrip().splitlines()[-1].startswith("error: ")
