"""Checkpoints that someone else wrote: code in plain data, damage, and fields that do not fit each other."""

import json
import os
import zipfile

import pytest
import torch
from conftest import ROOT, TINY
from niftis import nifti
from test_run_state import Run

from kits_unet3d.networks import CheckpointError, UNet3D, read_checkpoint, read_with_digest
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.model import build_network, read_model
from kits_unet3d.pipeline.runtime.files import file_hash
from kits_unet3d.pipeline.training import Resume
from kits_unet3d.pipeline.training.checkpoint import last_checkpoints
from kits_unet3d.transforms import PreprocessingParameters

CANARY = "__import__('pathlib').Path('canary').touch()"
UNET = "kits_unet3d.networks.UNet3D"


@pytest.fixture
def saved(tmp_path, tiny_checkpoint):
    """Saves the small checkpoint with other entries."""

    def save(**changed):
        content = torch.load(tiny_checkpoint, weights_only=True)
        torch.save({**content, **changed}, tmp_path / "foreign.pt")
        return tmp_path / "foreign.pt"

    return save


@pytest.mark.parametrize("mark", ["$", " $", "@", "%"])
@pytest.mark.parametrize("place", ["classes", "network", "nested", "dataset", "best"])
def test_an_expression_in_a_checkpoint_does_not_reach_a_bundle(tmp_path, monkeypatch, capsys, saved, mark, place):
    monkeypatch.chdir(tmp_path)
    code = mark + CANARY
    network = {"_target_": UNET, "channels": [4, 8, 8]}
    path = saved(
        **{
            "classes": {"preprocessing_parameters": {**TINY, "classes": ["background", code, "tumour"]}},
            "network": {"network": {**network, "norm": code}},
            "nested": {"network": {**network, "norm": ["batch", {"name": [code]}]}},
            "dataset": {"configuration": {"dataset": code}},
            "best": {"best": {code: 0.5}},
        }[place]
    )
    command = ["export", "bundle", "--checkpoint", str(path), "--bundle", str(ROOT / "bundle"), "-o", "b.zip"]
    assert main([*command, "--without", "onnx"]) == 3
    error = capsys.readouterr().err
    assert "foreign.pt: " in error and error.count("\n") == 1
    assert sorted(os.listdir()) == ["foreign.pt"], "a bundle was written, or code ran"


@pytest.mark.parametrize(
    "argument",
    [{"_target_": "os.system", "command": "touch canary"}, {"$x": 1}, {"a::b": 1}, {1: 2}, float("nan"), torch.ones(1)],
)
def test_network_arguments_are_plain_data(argument):
    with pytest.raises(CheckpointError, match="some.pt: its network's arguments are refused"):
        build_network({"_target_": UNET, "channels": [4, 8], "norm": ["instance", argument]}, "some.pt")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hu_std": 0}, "hu_std must be at least 1"),
        ({"hu_std": 1e-30}, "hu_std must be at least 1"),
        ({"hu_std": -76.9}, "hu_std must be at least 1"),
        ({"hu_mean": float("nan")}, "hu_mean must be a finite number"),
        ({"hu_mean": None}, "hu_mean must be a finite number"),
        ({"padding_value": "-2.2"}, "padding_value must be a finite number"),
        ({"overlap": float("nan")}, "overlap must be a finite number"),
        ({"spacing_mm": [1.6, float("inf"), 1.2]}, "spacing_mm must be 3 positive numbers"),
        ({"spacing_mm": "abc"}, "spacing_mm must be 3 positive numbers"),
        ({"hu_window": [None, 1]}, "hu_window must be"),
        ({"roi_size": [32, 32, 32.5]}, "roi_size must be 3 positive whole numbers"),
        ({"roi_size": None}, "roi_size must be 3 positive whole numbers"),
        ({"hu_mean": 1e300}, "hu_mean must be a finite number within"),
        ({"spacing_mm": [1e6, 1.2, 1.2]}, "spacing_mm must be 3 positive numbers up to 100"),
        ({"roi_size": [10**9, 32, 32]}, "roi_size must be 3 positive whole numbers up to 1024"),
        ({"classes": "abc"}, "classes must be two or more different names"),
        ({"classes": ["kidney", "tumour", "cyst"]}, "classes must begin with the background"),
        ({"classes": ["background", ""]}, "classes must be names"),
        ({"classes": ["background", "a\nb"]}, "classes must be names"),
        ({"classes": ["background", "../kidney"]}, "classes must be names"),
        ({"classes": ["background", 7]}, "classes must be names"),
    ],
)
def test_each_preprocessing_parameter_is_checked(saved, changed, message):
    path = saved(preprocessing_parameters={**TINY, **changed})
    with pytest.raises(CheckpointError, match=f"foreign.pt: its preprocessing parameters are invalid .*{message}"):
        read_model(path)


@pytest.mark.parametrize("value", [None, [1, 2], "text"])
def test_preprocessing_parameters_are_a_dictionary(saved, value):
    with pytest.raises(CheckpointError, match="must be a dictionary"):
        read_model(saved(preprocessing_parameters=value))


def test_the_default_parameters_pass_their_own_check():
    parameters = PreprocessingParameters()
    assert PreprocessingParameters.from_dict(json.loads(json.dumps(parameters.as_dict()))) == parameters


def test_classes_fit_the_outputs_of_the_network(saved):
    with pytest.raises(CheckpointError, match="foreign.pt: its network has 3 outputs, but .* 2 classes"):
        read_model(saved(preprocessing_parameters={**TINY, "classes": ["background", "kidney"]}))


def test_weights_that_are_not_finite_are_refused(tmp_path, capsys, saved, tiny_checkpoint):
    state = torch.load(tiny_checkpoint, weights_only=True)["model"]
    path = saved(model={name: torch.full_like(value, torch.nan) for name, value in state.items()})
    command = ["predict", str(nifti(tmp_path / "scan.nii.gz")), "-o", str(tmp_path / "out"), "--checkpoint", str(path)]
    assert main(command) == 3
    assert "foreign.pt: the weights in" in capsys.readouterr().err


def flipped(path, name="data/0"):
    """Inverts one bit in an entry of a checkpoint."""
    with zipfile.ZipFile(path) as packed:
        entry = next(entry for entry in packed.infolist() if entry.filename.endswith(name))
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + sum(content[entry.header_offset + at] for at in (26, 28))
    start += 256 * sum(content[entry.header_offset + at] for at in (27, 29))
    content[start + entry.file_size // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("entry", ["data/0", "data/9", "data.pkl"])
def test_one_flipped_bit_is_found(saved, entry):
    path = saved()
    flipped(path, entry)
    with pytest.raises(CheckpointError, match=rf"foreign.pt: damaged, .*{entry} does not match its CRC-32"):
        read_checkpoint(path)


def test_a_storage_of_zeros_is_found(saved):
    path = saved()
    with zipfile.ZipFile(path) as packed:
        weights = packed.read(next(name for name in packed.namelist() if name.endswith("data/0")))
    path.write_bytes(path.read_bytes().replace(weights, bytes(len(weights))))
    with pytest.raises(CheckpointError, match="does not match its CRC-32"):
        read_checkpoint(path)


def test_a_flipped_bit_resumes_from_the_checkpoint_before(tmp_path, caplog):
    Run().saved(tmp_path)
    *_, before, newest = last_checkpoints(tmp_path)
    flipped(newest)
    run = Run()
    with caplog.at_level("INFO"):
        run.start(4, Resume(True, tmp_path, run.state))
    assert f"{newest}: damaged" in caplog.text and f"resuming from {before}" in caplog.text


def test_a_bundle_given_as_checkpoint_names_the_command(tmp_path, capsys, tiny_checkpoint):
    out = tmp_path / "b.zip"
    command = ["export", "bundle", "--checkpoint", str(tiny_checkpoint), "--bundle", str(ROOT / "bundle")]
    assert main([*command, "-o", str(out), "--without", "onnx", "torchscript"]) == 0
    with pytest.raises(CheckpointError, match=f"b.zip: is the zip of a bundle; .*kits-unet3d unpack {out}"):
        read_checkpoint(out)


def test_the_digest_is_of_the_bytes_that_were_read(saved):
    path = saved()
    before = file_hash(path)
    model = read_model(path)
    torch.save({"other": torch.ones(1)}, path)
    assert model.digests == (before,) and file_hash(path) != before
    assert read_with_digest(path)[1] == file_hash(path)


def test_an_old_torch_reads_only_checkpoints_of_its_own(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    state = UNet3D(channels=(2, 4)).state_dict()
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.delenv("KITS_UNET3D_OWN_CHECKPOINTS", raising=False)
    with pytest.raises(CheckpointError, match="a.pt: refused, .*torch 2.9.1.*CVE-2026-24747, fixed in 2.10"):
        read_checkpoint(tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.pt", own=True)
    monkeypatch.setenv("KITS_UNET3D_OWN_CHECKPOINTS", "1")
    assert read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.complex64), "torch.complex64 in the file"),
        (lambda value: value.to(torch.int32), "torch.int32 in the file"),
        (lambda value: value.to(torch.bool), "torch.bool in the file"),
        (lambda value: value.to(torch.float8_e4m3fn), "torch.float8_e4m3fn in the file"),
        (lambda value: value.to_sparse(), "quantised or sparse values in the file"),
        (lambda value: torch.empty_like(value, device="meta"), "no values in the file"),
    ],
)
def test_weights_are_plain_floating_point_numbers(saved, tiny_checkpoint, change, message):
    state = torch.load(tiny_checkpoint, weights_only=True)["model"]
    with pytest.raises(CheckpointError, match=f"foreign.pt: .*{message}"):
        read_model(saved(model={name: change(value) for name, value in state.items()}))


def test_weights_that_are_there_twice_are_refused(saved, tiny_checkpoint):
    state = torch.load(tiny_checkpoint, weights_only=True)["model"]
    with pytest.raises(CheckpointError, match="foreign.pt: contains weights twice"):
        read_model(saved(model=state | {f"module.{name}": value + 1 for name, value in state.items()}))


def test_assumed_preprocessing_is_said_even_if_the_network_is_named(saved, tiny_checkpoint, tmp_path):
    content = torch.load(tiny_checkpoint, weights_only=True)
    del content["preprocessing_parameters"]
    torch.save(content, tmp_path / "bare.pt")
    assert "preprocessing of the MLPerf reference assumed" in read_model(tmp_path / "bare.pt").description
    assert "assumed" not in read_model(saved()).description


def test_a_description_holds_no_control_characters_or_impossible_numbers(saved):
    path = saved(name="a\x1b[2J\nb", trained_on="c\rd", epoch=-3, best=7.5)
    description = read_model(path).description
    assert description.isprintable() and description.startswith("foreign.pt: ") and "-3" not in description
    assert "7.5" not in description


def test_weights_without_their_description_name_the_file_that_is_missing(tmp_path):
    from safetensors.torch import save_file

    save_file(UNet3D(channels=(2, 4)).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="put a.json, which names it, beside the file"):
        read_model(tmp_path / "a.safetensors")
