"""What MONAI itself, and the programs that read bundles, demand of this one: checked by MONAI's own commands."""

import json
import os
import shutil
import subprocess
import sys
from inspect import signature

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    load,
    onnx_export,
    run,
    verify_metadata,
    verify_net_in_out,
)

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.export import describe
from kits_unet3d.pipeline.model import read_model

CONFIGS = ROOT / "bundle" / "configs"
METADATA = str(CONFIGS / "metadata.json")
#: Configurations that lie upon train.json.
OVERLAYS = sorted(p.stem for p in CONFIGS.glob("*.json") if p.stem not in ("metadata", "train", "inference"))
#: What train.json and inference.json may each say in their own way, and why.
OWN_WAY = {
    "imports": "each imports what it uses",
    "initialize": "seeds are drawn for training only",
    "run": "each runs its own workflow",
    "dataset_dir": "prepared cases here, scans there",
    "network_factory": "the same arguments, spelt out where they can be changed",
    "network_def": "fresh here, from the checkpoint there",
    "recipe": "set here, from the checkpoint there",
}
#: The same for train.json with evaluate.json upon it.
OWN_WAY_EVALUATING = OWN_WAY.keys() - {"network_def", "recipe"} | {"model"}


def content(name: str) -> dict:
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["repository", "bundle", "elsewhere"])
def where(request, monkeypatch, tmp_path):
    """Working folders a user may stand in, with the overrides needed there."""
    folder = {"repository": ROOT, "bundle": ROOT / "bundle", "elsewhere": tmp_path}[request.param]
    monkeypatch.chdir(folder)
    return {"bundle_root": str(ROOT / "bundle")} if request.param == "elsewhere" else {}


@pytest.fixture
def copied_bundle(tmp_path, tiny_checkpoint):
    """The bundle in a folder of its own, with a small trained model."""
    folder = tmp_path / "zoo" / "kits_unet3d"
    shutil.copytree(ROOT / "bundle", folder, ignore=shutil.ignore_patterns("*.pt", "eval"))
    shutil.copy(tiny_checkpoint, folder / "models" / "model.pt")
    return folder


def test_monai_finds_the_metadata_in_order(tmp_path, tiny_checkpoint):
    schema = tmp_path / "schema.json"
    shutil.copy(ROOT / "tests" / "goldens" / "meta_schema_20240725.json", schema)  # there, so that nothing is fetched
    verify_metadata(meta_file=METADATA, filepath=str(schema))
    made = tmp_path / "metadata.json"
    made.write_text(json.dumps(describe(tiny_checkpoint, ROOT / "bundle").configs["metadata"]))
    verify_metadata(meta_file=str(made), filepath=str(schema))


def test_the_metadata_name_installed_packages_and_their_tested_versions():
    from importlib.metadata import version

    metadata = content("metadata")
    pins = dict(
        line.split(";")[0].strip().lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    named |= metadata["required_packages_version"]
    assert named.pop("kits-unet3d") == version("kits-unet3d") == metadata["version"]
    assert named == {name: pins[name] for name in named}
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize(
    ("config", "shape"), [("train", [32, 64, 32]), pytest.param("inference", [128, 128, 128], marks=pytest.mark.slow)]
)  # fmt: skip
def test_the_network_takes_and_gives_what_the_metadata_say(config, shape, monkeypatch):
    monkeypatch.chdir(ROOT)
    override = {"_meta_#network_data_format#inputs#image#spatial_shape": shape}
    assert config == "train" or content("metadata")["network_data_format"]["inputs"]["image"]["spatial_shape"] == shape
    verify_net_in_out(
        "network_def", meta_file=METADATA, config_file=str(CONFIGS / f"{config}.json"), device="cpu", **override
    )


def workflow(names, kind, **overrides):
    made = ConfigWorkflow(
        [str(CONFIGS / f"{name}.json") for name in names], logging_file=False, workflow_type=kind,
        device_name="cpu", **overrides,
    )  # fmt: skip
    made.initialize()
    return made


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_no_property_of_a_training_is_missing(overlay, where, prepared_phantoms, tiny_checkpoint):
    names = ["train", *([overlay] if overlay else [])]
    if overlay is not None and "ckpt_path" in content(overlay):
        where = {**where, "ckpt_path": str(tiny_checkpoint)}
    made = workflow(names, "train", dataset_dir=str(prepared_phantoms), workers=0, **where)
    assert made.check_properties() == []
    assert made.initialize() == made.initialize()  # consumers call it more than once


def test_no_property_of_an_inference_is_missing(where, raw_phantoms):
    made = workflow(["inference"], "infer", input=str(raw_phantoms / "case_00000" / "imaging.nii.gz"), **where)
    assert made.check_properties() == []


def test_what_two_configurations_both_define_is_the_same():
    evaluate = {name.lstrip("+"): value for name, value in content("evaluate").items()}
    inference = content("inference")
    for whole, own in ((content("train"), OWN_WAY), (content("train") | evaluate, OWN_WAY_EVALUATING)):
        both = set(whole) & set(inference)
        assert {name for name in both if whole[name] != inference[name]} == set(own)
    networks = []
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(CONFIGS / f"{name}.json")
        networks.append(parser.get_parsed_content("network_factory"))
    bound = [signature(n.func).bind(**n.keywords) for n in networks]
    for arguments in bound:
        arguments.apply_defaults()
        arguments.arguments["channels"] = tuple(arguments.arguments["channels"])
    assert networks[0].func is networks[1].func is UNet3D and bound[0].arguments == bound[1].arguments


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_says_only_what_is_different(overlay):
    base = content("train")
    same = [name for name, value in content(overlay).items() if name in base and base[name] == value]
    assert not same


def test_the_handlers_are_plain_components_for_programs_that_edit_them():
    for group in ("train", "validate"):
        handlers = content("train")[group]["handlers"]
        assert handlers and all(isinstance(handler, dict) and "_target_" in handler for handler in handlers)


@pytest.mark.slow
def test_a_scan_is_segmented_from_any_folder(copied_bundle, monkeypatch, tmp_path, raw_phantoms):
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    root = {"bundle_root": str(copied_bundle)}
    monkeypatch.setattr(sys, "path", list(sys.path))  # run() adds the bundle's folder
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
def test_every_other_run_works_from_elsewhere(command, names, copied_bundle, tmp_path, prepared_phantoms, tiny_config):
    files = [str(copied_bundle / "configs" / f"{name}.json") for name in names]
    files.insert(1, str(tiny_config))
    options = {"config_file": str(files), "bundle_root": copied_bundle, "dataset_dir": prepared_phantoms}
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
    assert [case["outcome"] for case in cases.values()] == ["failed", "done", "done"]
    assert cases["case_1"]["volumes_ml"]["tumour"] == 0
    options["input"] = tmp_path / "nowhere"
    command[-8:] = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=copied_bundle, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.rstrip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_monai_loads_the_network_with_its_weights(kind, copied_bundle, monkeypatch, tiny_checkpoint):
    trained = read_model(tiny_checkpoint).network
    monkeypatch.chdir(copied_bundle)  # where the configurations find models/model.pt
    own = {"model": UNet3D(channels=trained.channels)} if kind == "train" else {}
    network = load(
        copied_bundle.name,
        workflow_type=kind,
        bundle_dir=copied_bundle.parent,
        device="cpu",
        key_in_ckpt="model",
        **own,
    )
    assert isinstance(network, UNet3D)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.state_dict().items())


def exported(converter, bundle, filepath, **arguments):
    converter(
        "network_def", filepath=str(filepath), ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"), config_file=str(bundle / "configs" / "inference.json"),
        key_in_ckpt="model", bundle_root=str(bundle), device_name="cpu", **arguments,
    )  # fmt: skip


def test_torchscript_goes_out_and_comes_back(copied_bundle, tiny_checkpoint):
    exported(ckpt_export, copied_bundle, copied_bundle / "models" / "model.ts")
    network, metadata, extra = load(
        copied_bundle.name, load_ts_module=True, bundle_dir=copied_bundle.parent, device="cpu",
        config_files=["inference.json"],
    )  # fmt: skip
    assert metadata["network_data_format"] == content("metadata")["network_data_format"]
    assert json.loads(extra["inference.json"])["preprocessing"]
    image = torch.randn(1, 1, 32, 32, 32)
    trained = read_model(tiny_checkpoint).network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image), trained(image), atol=1e-5, rtol=0)
        with pytest.raises(torch.jit.Error, match="multiple of 8"):
            network(torch.zeros(1, 1, 20, 32, 32))


def test_onnx_gives_the_same_logits(copied_bundle, tiny_checkpoint):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = copied_bundle / "models" / "model.onnx"
    exported(onnx_export, copied_bundle, path, input_shape=[1, 1, 32, 32, 32])
    image = torch.randn(1, 1, 32, 32, 32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, read_model(tiny_checkpoint).network.eval()(image).numpy(), atol=1e-4, rtol=0)


def test_the_layout_is_that_of_a_new_bundle(tmp_path):
    from monai.bundle import init_bundle

    init_bundle(str(tmp_path / "new"), network=None)
    for folder, _, files in os.walk(tmp_path / "new"):
        for name in files:
            inside = os.path.relpath(os.path.join(folder, name), tmp_path / "new")
            assert (ROOT / "bundle" / inside).is_file(), inside
