"""A trained network as others take it, and bundles that are not what they say."""

import json
import shutil
import signal
import stat
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from monai.bundle import ConfigParser, download, load

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.export import describe, pack, unpack
from kits_unet3d.pipeline.export.description import filled
from kits_unet3d.pipeline.inference.openvino import shared_core
from kits_unet3d.pipeline.model import read_model

BUNDLE = str(ROOT / "bundle")


@pytest.fixture(scope="module")
def archive(tmp_path_factory, tiny_checkpoint):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("export") / "kits_unet3d_v0.1.0.zip"
    assert main(["export", "bundle", "--checkpoint", str(tiny_checkpoint), "-o", str(path), "--bundle", BUNDLE]) == 0
    assert [child.name for child in path.parent.iterdir()] == [path.name]  # nothing unfinished is left
    return path


@pytest.fixture
def small(tmp_path):
    """A zip of ours with one small file, to be spoilt."""
    directory = tmp_path / "small"
    (directory / "configs").mkdir(parents=True)
    (directory / "configs" / "a.json").write_text("{}")
    return pack(directory, tmp_path / "small.zip")


def test_monai_downloads_the_bundle_and_loads_it(archive, tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    download("kits_unet3d", url=archive.as_uri(), bundle_dir=str(tmp_path), progress=False)
    trained = read_model(tiny_checkpoint).network.eval()
    loaded = load("kits_unet3d", bundle_dir=str(tmp_path), workflow_type="inference", device="cpu")
    assert isinstance(loaded, UNet3D) and loaded.channels == (4, 8, 8)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in trained.state_dict().items())
    script, metadata, _ = load("kits_unet3d", bundle_dir=str(tmp_path), load_ts_module=True, device="cpu")
    image = torch.randn(1, 1, *TINY["roi_size"])
    with torch.no_grad():
        torch.testing.assert_close(script(image), trained(image), atol=1e-4, rtol=0)
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == TINY["roi_size"]


KINDS = [("torchscript", "m.ts", "torch"), ("onnx", "m.onnx", "onnxscript"), ("openvino", "m.xml", "openvino"),
         ("bundle", "m.zip", "torch")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "package"), KINDS)
def test_an_export_without_room_is_one_error_and_leaves_nothing(tmp_path, tiny_checkpoint, kind, name, package):
    """A limit of 20 kB for each file fails as a full disk does."""
    pytest.importorskip(package)
    resource = pytest.importorskip("resource")
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "export", kind, "--bundle", BUNDLE]
    command += ["--checkpoint", str(tiny_checkpoint), "-o", str(tmp_path / "out" / name)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 2 and not list((tmp_path / "out").iterdir()), done.stderr[-2000:]
    last = [line for line in done.stderr.splitlines() if line][-1]
    assert last.startswith(f"error: {tmp_path}/out/") and "cannot be written (File too large)" in last


def test_openvino_reads_what_is_exported_for_it(tmp_path, tiny_checkpoint):
    pytest.importorskip("openvino")
    out = tmp_path / "model.xml"
    command = ["export", "openvino", "--checkpoint", str(tiny_checkpoint), "--bundle", BUNDLE, "-o", str(out)]
    assert main(command) == 0
    assert sorted(child.name for child in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    compiled = shared_core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = torch.randn(1, 1, *TINY["roi_size"])
    with torch.no_grad():
        expected = read_model(tiny_checkpoint).network.eval()(image).numpy()
    np.testing.assert_allclose(compiled({"image": image.numpy()})["pred"], expected, atol=1e-4, rtol=0)


def test_without_openvino_the_way_to_get_it_is_said(tmp_path, capsys, monkeypatch, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, "openvino", None)
    command = ["export", "openvino", "--checkpoint", str(tiny_checkpoint), "--bundle", BUNDLE]
    assert main([*command, "-o", str(tmp_path / "model.xml")]) == 2
    assert "kits-unet3d[openvino]" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_the_packages_for_onnx_a_bundle_is_written_without_it(tmp_path, monkeypatch, caplog, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "b.zip"
    command = ["export", "bundle", "--checkpoint", str(tiny_checkpoint), "--bundle", BUNDLE, "-o", str(out)]
    assert main([*command, "--without", "torchscript"]) == 0
    assert "left out: models/model.onnx" in caplog.text and "kits-unet3d[onnx]" in caplog.text
    assert sorted(path.name for path in (unpack(out, tmp_path) / "models").iterdir()) == ["model.pt"]
    assert main(["export", "onnx", *command[2:6], "-o", str(tmp_path / "m.onnx")]) == 2


def test_an_unpacked_bundle_predicts_by_itself(archive, tmp_path, raw_phantoms, tiny_checkpoint):
    assert main(["unpack", str(archive), "-o", str(tmp_path)]) == 0
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    for directory, checkpoint in (("a", tmp_path / "kits_unet3d" / "models" / "model.pt"), ("b", tiny_checkpoint)):
        assert main(["predict", str(scan), "-o", str(tmp_path / directory), "--checkpoint", str(checkpoint)]) == 0
    masks = [nib.load(tmp_path / directory / "case_00003_seg.nii.gz").get_fdata() for directory in "ab"]
    assert np.array_equal(*masks)


def test_the_configurations_in_the_zip_agree_with_its_checkpoint(archive, tmp_path):
    directory = unpack(archive, tmp_path)
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(directory / "configs" / f"{name}.json")
        network = parser.get_parsed_content("network_factory")()
        assert network.channels == (4, 8, 8)
    train = json.loads((directory / "configs" / "train.json").read_text())
    assert train["roi_size"] == TINY["roi_size"] and train["spacing_mm"] == TINY["spacing_mm"]
    metadata = json.loads((directory / "configs" / "metadata.json").read_text())
    manifest = json.loads((directory / "manifest.json").read_text())["files"]
    assert metadata["sha256"] == {n: e["sha256"] for n, e in manifest.items() if n.startswith("models/")}
    assert set(metadata["sha256"]) == {"models/model.pt", "models/model.ts", "models/model.onnx"}
    assert {"LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"} <= set(manifest)
    assert metadata["eval_metrics"] == {"mean_dice": 0.25}
    assert metadata["data_source"] == "phantoms" and "KiTS19" not in metadata["name"] + metadata["description"]
    readme = (directory / "docs" / "README.md").read_text()
    parameters = sum(p.numel() for p in UNet3D(channels=(4, 8, 8)).parameters())
    assert f"channels 4 8 8, instance norm, {parameters:,} parameters; patches of 32 × 32 × 32 voxels" in readme
    assert "resampled to 8 × 6 × 6 mm" in readme and "phantoms." in readme and "mean_dice 0.2500" in readme
    assert "batch 2, SGD, learning rate 0.05 after 1 epochs" in readme
    assert "210 labelled" not in readme and "31,190,243" not in readme and "$" not in readme
    content = torch.load(directory / "models" / "model.pt", weights_only=True)
    assert content["preprocessing_parameters"]["roi_size"] == TINY["roi_size"] and content["best"] == {
        "mean_dice": 0.25
    }


def test_a_reference_checkpoint_is_exported_with_the_bundle_network(tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    config = bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_factory"]["channels"] = [2, 4]
    config.write_text(json.dumps(content))
    # The keys of the reference's CheckpointCallback; `trained_on` comes from converted weights.
    metrics = {"epoch": 7.0, "L1 dice": np.float32(0.95), "L2 dice": np.float32(0.87), "mean_dice": np.float32(0.91)}
    content = {"best_model_state_dict": UNet3D(channels=(2, 4)).state_dict(), "trained_on": "KiTS19: 168 scans"}
    torch.save(content | metrics, tmp_path / "reference.pt")
    command = ["export", "bundle", "--checkpoint", str(tmp_path / "reference.pt"), "--bundle", str(bundle)]
    out = tmp_path / "out" / "b.zip"
    assert main([*command, "-o", str(out), "--without", "onnx", "torchscript"]) == 0
    directory = unpack(out, tmp_path)
    model = read_model(directory / "models" / "model.pt")
    assert model.network.channels == (2, 4)
    assert "trained on KiTS19: 168 scans" in model.description and "7 epochs, mean_dice 0.9100" in model.description
    metadata = json.loads((directory / "configs" / "metadata.json").read_text())
    scores = {"kidney_dice": 0.95, "tumour_dice": 0.87, "mean_dice": 0.91}
    assert metadata["eval_metrics"] == pytest.approx(scores) and metadata["data_source"] == "KiTS19: 168 scans"
    assert "mean_dice 0.9100" in (directory / "docs" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bundle", "-o", "b.tar"], 2, "must end in .zip"),
        (["onnx", "-o", "b.onnx", "--without", "onnx"], 2, "--without"),
        (["torchscript", "-o", "m.ts", "--bundle", "nowhere"], 2, "nowhere: is not a bundle"),
        (["torchscript", "-o", "m.ts", "--checkpoint", "none.pt"], 3, "none.pt: no such checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch, capsys, tiny_checkpoint, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", str(tiny_checkpoint), "--bundle", BUNDLE, *arguments]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_exported(tmp_path, capsys, tiny_checkpoint):
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["model"]["output.conv.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    command = ["export", "torchscript", "--checkpoint", str(tmp_path / "nan.pt"), "--bundle", BUNDLE]
    assert main([*command, "-o", str(tmp_path / "model.ts")]) == 3
    assert "output.conv.bias are not finite" in capsys.readouterr().err and not (tmp_path / "model.ts").exists()


def test_the_same_files_give_the_same_zip(small, tmp_path):
    first = small.read_bytes()
    (tmp_path / "small" / "configs" / "a.json").touch()
    assert pack(tmp_path / "small", small).read_bytes() == first


def test_what_is_there_is_not_unpacked_over(small, tmp_path):
    assert unpack(small, tmp_path / "o") == tmp_path / "o" / "small"
    with pytest.raises(ValueError, match="exists already"):
        unpack(small, tmp_path / "o")


def rewritten(path, change):
    """``path`` with its members, by name, as ``change`` leaves them."""
    with zipfile.ZipFile(path) as packed:
        members = {entry.filename: packed.read(entry) for entry in packed.infolist()}
    extra = change(members) or []
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in [*members.items(), *extra]:
            packed.writestr(name, content)
    return path


def stating(**sizes):
    """Makes the manifest give these sizes to the files of small/models, and lets each be there."""

    def change(members):
        manifest = json.loads(members["small/manifest.json"])
        for name, size in sizes.items():
            manifest["files"][f"models/{name}"] = {"bytes": size, "sha256": "0"}
            members[f"small/models/{name}"] = b"weights"
        members["small/manifest.json"] = json.dumps(manifest).encode()

    return change


def packed_by(method):
    entry = zipfile.ZipInfo("small/models/more")
    entry.compress_type = method
    return entry


def link():
    entry = zipfile.ZipInfo("small/configs/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"small/configs/a.json": b"[]"}), "differs from its entry in manifest.json"),
        (lambda m: m.update({"small/configs/a.json": b"{" * 99}), "longer than its manifest.json lists"),
        (lambda m: m.update({"small/more.py": b"print()"}), "more.py is in the zip or in its manifest.json"),
        (lambda m: m.pop("small/configs/a.json") and None, "a.json is in the zip or in its manifest.json"),
        (lambda m: m.pop("small/manifest.json") and None, "not one directory with a manifest.json"),
        (lambda m: m.update({"small/manifest.json": b"{}"}), "manifest.json is not usable"),
        (stating(a=-2), "manifest.json lists models/a with -2 bytes"),
        (stating(a=9 << 30, b=-9 << 30), "manifest.json lists models/b with -9663676416 bytes"),
        (stating(a=float("inf")), "manifest.json is not usable"),
        (stating(a=9 << 30), "more than 4 GiB"),
        (lambda m: m.update({".": b""}), "with an empty part"),
        (lambda m: m.update({"small//configs/a.json": b""}), "with an empty part"),
        (lambda m: [(packed_by(zipfile.ZIP_LZMA), b"weights")], "uses a compression method"),
        (lambda m: m.update({"../escaped": b""}), "leads outside"),
        (lambda m: m.update({"/escaped": b""}), "leads outside"),
        (lambda m: m.update({"small\\..\\..\\escaped": b""}), "leads outside"),
        (lambda m: m.update({"other/file": b""}), "not one directory"),
        (lambda m: m.update({"file": b""}), "is outside the bundle's directory"),
        (lambda m: [(link(), b"/etc/passwd")], "is a link or a device"),
        (lambda m: m.update({f"small/{n}": b"" for n in range(300)}), "more than 200 files"),
    ],
)
def test_a_zip_that_is_not_as_its_manifest_says_leaves_nothing(small, tmp_path, change, message):
    with pytest.raises(ValueError, match="small.zip: not unpacked: .*" + message):
        unpack(rewritten(small, change), tmp_path / "o")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())
    assert not (tmp_path / "escaped").exists()


def test_the_remains_of_a_killed_unpacking_are_removed(small, tmp_path, caplog):
    kill = (
        "import os, signal, sys; from kits_unet3d.pipeline.export import bundle\n"
        "bundle.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "bundle.unpack(*sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", kill, str(small), str(tmp_path / "o")]).returncode == -signal.SIGKILL
    assert list((tmp_path / "o").iterdir()), "the process left nothing"
    unpack(small, tmp_path / "o")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["small"]
    assert "its configurations are code" in caplog.text


def test_a_damaged_zip_is_exit_code_2(small, tmp_path, capsys):
    small.write_bytes(small.read_bytes()[:-30])
    assert main(["unpack", str(small), "-o", str(tmp_path / "o")]) == 2
    assert "small.zip: cannot be unpacked" in capsys.readouterr().err


def test_a_bundle_of_four_classes_names_them_and_its_data_set(tmp_path):
    classes = ["background", "kidney", "tumour", "cyst"]
    content = {
        "model": UNet3D(out_channels=4, channels=(4, 8, 8)).state_dict(),
        "network": {"_target_": "kits_unet3d.networks.UNet3D", "out_channels": 4, "channels": [4, 8, 8]},
        "preprocessing_parameters": {**TINY, "classes": classes},
        "configuration": {"dataset": "KiTS23"},
    }
    torch.save(content, tmp_path / "model.pt")
    described = describe(tmp_path / "model.pt", ROOT / "bundle")
    metadata = described.configs["metadata"]
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    named = {"0": "background", "1": "kidney", "2": "tumour", "3": "cyst"}
    assert (outputs["num_channels"], outputs["channel_def"]) == (4, named)
    assert metadata["network_data_format"]["post_processed_outputs"]["pred"]["channel_def"] == named
    assert metadata["pred_classes"] == "0 background, 1 kidney, 2 tumour, 3 cyst"
    assert metadata["data_source"] == "KiTS23" and described.configs["train"]["classes"] == classes
    assert described.model.description.startswith("model.pt: trained on KiTS23, classes kidney, tumour and cyst, ")
    readme = filled((ROOT / "bundle" / "docs" / "README.md").read_text(encoding="utf-8"), described)
    assert "KiTS23: 489 labelled scans" in readme and "3 cyst" in readme
