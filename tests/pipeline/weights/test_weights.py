"""Published weights: listed, downloaded from a server that misbehaves, verified, converted and used."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from niftis import ct, nifti

from kits_unet3d.networks import CheckpointError, UNet3D
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.download import Patience
from kits_unet3d.pipeline.model import read_model
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.pipeline.weights import (
    add_weights,
    download_weights,
    find_weights,
    installed_weights,
    published_weights,
    weights_directory,
)
from kits_unet3d.transforms import PreprocessingParameters

pytestmark = pytest.mark.usefixtures("home")
QUICK = Patience(timeout_s=0.5, retries=4, wait_s=0.01)
SMALL = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [2, 4]}
#: Metrics of the best epoch, as the reference stores them beside the weights: floats, or numpy numbers.
METRICS = {"epoch": 7.0, "L1 dice": np.float32(0.95), "L2 dice": np.float32(0.87), "mean_dice": np.float32(0.91)}


def of_reference(network, optimiser):
    """Return a checkpoint's content with the keys of the reference's ``CheckpointCallback``."""
    state = {f"module.{name}": values for name, values in network.state_dict().items()}
    content = {f"{which}_model_state_dict": state for which in ("last", "best")}
    return content | {f"{which}_optimizer_state_dict": optimiser.state_dict() for which in ("last", "best")} | METRICS


@pytest.fixture
def stand_in(tmp_path):
    """A checkpoint as the MLPerf training reference saves one, of a small network, and its published description."""
    network = UNet3D(channels=(2, 4))
    file = tmp_path / "stand_in.pth"
    torch.save(of_reference(network, torch.optim.SGD(network.parameters(), 0.1)), file)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    published = replace(find_weights("mlperf-kits19"), name="small", file="small.pth", md5=md5, network=SMALL)
    return file, published, network


def test_weights_arrive_whole_from_a_server_that_misbehaves(stand_in, server):
    file, published, network = stand_in
    server.body, server.moods = file.read_bytes(), ["lie", "refused", "break", "stall"]
    path = download_weights(published, server.address, patience=QUICK)
    assert path == weights_directory() / "small.safetensors" and len(server.requests) == 5
    assert [bool(part) for _, part in server.requests] == [False, True, False, True, True]  # resumed where it broke off
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["network"] == SMALL and about["preprocessing_parameters"]["spacing_mm"] == [1.6, 1.2, 1.2]
    from safetensors.torch import load_file

    assert all(torch.equal(values, network.state_dict()[name]) for name, values in load_file(path).items())
    assert sorted(p.name for p in path.parent.iterdir()) == ["small.json", "small.safetensors"]
    assert download_weights(published, server.address, offline=True) == path and len(server.requests) == 5
    assert installed_weights() == {"small": path}


def test_weights_can_be_kept_in_a_directory_of_the_users(stand_in, server, tmp_path, capsys):
    file, published, network = stand_in
    server.body = file.read_bytes()
    path = download_weights(published, server.address, patience=QUICK, directory=tmp_path / "own")
    assert path == tmp_path / "own" / "small.safetensors" and not installed_weights()
    assert read_model(path).description.startswith("small: trained on KiTS19: 168")
    assert download_weights(published, server.address, offline=True, directory=tmp_path / "own") == path
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "small.pth").write_bytes(file.read_bytes())
    download_weights(published, offline=True, directory=tmp_path / "other")
    assert (tmp_path / "other" / "small.pth").is_file()
    (tmp_path / "own" / "small.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="does not describe these weights"):
        download_weights(published, server.address, patience=QUICK, directory=tmp_path / "own")
    assert main(["weights", "list", "-o", "own"]) == 2
    assert "--output-dir and --offline are for `weights download`" in capsys.readouterr().err


def test_downloaded_weights_predict_with_what_their_description_names(stand_in, server, tmp_path):
    file, published, network = stand_in
    server.body = file.read_bytes()
    path = download_weights(published, server.address, patience=QUICK)
    model = read_model(path)
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(model.network(image), network(image))
    assert model.parameters == PreprocessingParameters()
    assert model.description.startswith("small: trained on KiTS19: 168")
    assert "7 epochs, mean_dice 0.8617" in model.description
    described = path.with_suffix(".json")
    described.write_text(described.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(CheckpointError, match="does not describe small.safetensors"):
        read_model(path)


def test_a_checkpoint_of_the_reference_is_read_as_it_is(tmp_path):
    """Names and shapes are enough: the network and its preprocessing are assumed, and the description says so."""
    torch.manual_seed(0)
    network = UNet3D()
    file = tmp_path / "checkpoint.pth"
    torch.save(of_reference(network, torch.optim.SGD(network.parameters(), 0.1)), file)
    model = read_model(file)
    assert all(torch.equal(values, network.state_dict()[name]) for name, values in model.network.state_dict().items())
    assert model.parameters == PreprocessingParameters()
    assert model.description == (
        "checkpoint.pth: training data unknown, classes kidney and tumour, 7 epochs, mean_dice 0.9100, network and "
        "preprocessing of the MLPerf reference assumed, since the file names none"
    )
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "model.ptc")
    with pytest.raises(CheckpointError, match="is TorchScript"):
        read_model(tmp_path / "model.ptc")
    torch.save({"model": UNet3D(channels=(2, 4)).state_dict()}, file)
    with pytest.raises(CheckpointError, match="do not fit MLPerf's network"):
        read_model(file)


def test_a_prediction_without_a_checkpoint_takes_downloaded_weights(stand_in, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scan = nifti(tmp_path / "scan.nii.gz", ct((40, 40, 20)))
    command = ["predict", str(scan), "-o", "out", "--device", "cpu", "--no-html-report", "--backend", "eager"]
    assert main(command) == 3 and "weights download mlperf-kits19" in capsys.readouterr().err
    file, published, _ = stand_in
    server.body = file.read_bytes()
    parameters = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
    download_weights(replace(published, preprocessing_parameters=parameters), server.address, patience=QUICK)
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("model: small: trained on KiTS19: 168 contrast-enhanced CT scans")


def test_a_mirror_is_named_by_a_variable(stand_in, server, monkeypatch):
    file, published, _ = stand_in
    server.body = file.read_bytes()
    monkeypatch.setenv("KITS_UNET3D_WEIGHTS_URL", server.address.rpartition("/")[0])
    download_weights(published, patience=QUICK)
    assert server.requests == [("/small.pth", None)]


def test_another_file_than_the_published_one_is_refused(stand_in, server):
    file, published, _ = stand_in
    server.body = file.read_bytes()[:-1] + b"x"
    found = hashlib.md5(server.body).hexdigest()
    told = f"sent another file .small.pth: its MD5 is {found}, not the published {published.md5}.; name a mirror"
    with pytest.raises(CaseError, match=told):
        download_weights(published, server.address, patience=QUICK)
    assert len(server.requests) == 1 and not list(weights_directory().iterdir())


def test_a_wrong_hash_of_a_resumed_file_is_fetched_once_more(stand_in, server):
    _, published, _ = stand_in
    server.body, server.moods = bytes(40_000), ["break"]
    with pytest.raises(CaseError, match="its MD5 is"):
        download_weights(published, server.address, patience=QUICK)
    assert [part for _, part in server.requests] == [None, "bytes=20000-", None]


def test_code_in_published_weights_is_refused(stand_in, server, tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("run",))

    _, published, _ = stand_in
    torch.save({"best_model_state_dict": Payload()}, tmp_path / "payload.pth")
    server.body = (tmp_path / "payload.pth").read_bytes()
    with pytest.raises(CheckpointError, match="refused"):
        download_weights(replace(published, md5=hashlib.md5(server.body).hexdigest()), server.address, patience=QUICK)
    assert not installed_weights()


def test_weights_of_another_network_are_refused(stand_in, server):
    file, published, _ = stand_in
    server.body = file.read_bytes()
    with pytest.raises(CheckpointError, match="belong to another network"):
        download_weights(replace(published, network={**SMALL, "channels": [4, 8]}), server.address, patience=QUICK)


def test_damaged_converted_weights_are_made_again(stand_in, server):
    file, published, _ = stand_in
    server.body = file.read_bytes()
    path = download_weights(published, server.address, patience=QUICK)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(UsageError, match="weights add small.pth"):
        download_weights(published, offline=True)
    assert download_weights(published, server.address, patience=QUICK).read_bytes() == whole


def test_a_changed_copy_of_a_published_file_is_not_added(tmp_path, stand_in):
    changed = tmp_path / find_weights("mlperf-kits19").file
    changed.write_bytes(stand_in[0].read_bytes())
    with pytest.raises(UsageError, match="its MD5 is not 09c696e3"):
        add_weights(changed)
    with pytest.raises(CheckpointError, match="belong to another network"):
        add_weights(stand_in[0])


def test_added_weights_keep_their_own_preprocessing_and_warning(tmp_path):
    own = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
    content = {"model": UNet3D(channels=(2, 4)).state_dict(), "network": SMALL, "preprocessing_parameters": own}
    torch.save({**content, "configuration": {"dataset": "phantoms"}}, tmp_path / "own.pt")
    model = read_model(add_weights(tmp_path / "own.pt"))
    assert model.parameters.spacing_mm == (16.0, 12.0, 12.0) and "phantoms" in str(model.warning)
    again = read_model(add_weights(weights_directory() / "own.safetensors", "again"))
    assert again.parameters == model.parameters and again.warning == model.warning
    with pytest.raises(UsageError, match="is the name of published weights"):
        add_weights(tmp_path / "own.pt", "mlperf-kits19")
    with pytest.raises(UsageError, match="was trained on phantoms, .*leave out --trained-on"):
        add_weights(tmp_path / "own.pt", "other", trained_on="KiTS19")


def test_added_weights_report_their_training_or_that_it_is_unknown(tmp_path):
    content = {"model": UNet3D(channels=(2, 4)).state_dict(), "network": SMALL}
    full = {"preprocessing_parameters": {}, "configuration": {"dataset": "KiTS23"}, "epoch": 120, "best": 0.8125}
    torch.save(content | full, tmp_path / "full.pt")
    torch.save(content | METRICS, tmp_path / "bare.pt")
    torch.save(content, tmp_path / "less.pt")
    told = "full: trained on KiTS23, classes kidney and tumour, 120 epochs, mean_dice 0.8125"
    assert read_model(add_weights(tmp_path / "full.pt")).description == told
    again = add_weights(weights_directory() / "full.safetensors", "again")
    assert read_model(again).description == told.replace("full", "again")
    assert main(["weights", "add", str(tmp_path / "bare.pt"), "--trained-on", "our own 90 scans"]) == 0
    told = read_model(weights_directory() / "bare.safetensors").description
    assert told.startswith("bare: trained on our own 90 scans, classes kidney and tumour, 7 epochs, mean_dice 0.9100")
    told = read_model(add_weights(tmp_path / "less.pt")).description
    assert told.startswith("less: training data unknown, classes kidney and tumour, epochs unknown, mean_dice unknown")
    for text in ("", " ", "two\nlines"):
        with pytest.raises(UsageError, match="must be one line of text"):
            add_weights(tmp_path / "less.pt", "other", text)
    with pytest.raises(UsageError, match="MONAI would evaluate it"):
        add_weights(tmp_path / "less.pt", "other", "$data")
    with pytest.raises(UsageError, match="cannot be the name of weights"):
        add_weights(tmp_path / "less.pt", "n" * 300)
    assert read_model(add_weights(tmp_path / "less.pt", "drawn", "20 Phantoms (simulated)")).warning
    torch.save(content | {"scores": torch.tensor([0.1, 0.2])}, tmp_path / "odd.pt")
    assert "mean_dice unknown" in read_model(add_weights(tmp_path / "odd.pt")).description


def test_the_command_lists_what_is_published_and_here(capsys):
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert "09c696e3ec13d83c628498bcd831eb5b" in printed and "for research only" in printed
    assert "125 MB after conversion" in printed and "CC BY-NC-SA 4.0" in printed and "mean_dice 0.8617" in printed
    assert "uses nothing: download weights, or train a model" in printed and "used   " not in printed
    assert "not downloaded" in printed and next(iter(published_weights())) == "mlperf-kits19"
    assert main(["weights", "download", "mlperf-kits19", "--offline"]) == 2
    assert "weights add 3dunet_kits19_pytorch_checkpoint.pth" in capsys.readouterr().err
    assert main(["weights", "download", "nothing"]) == 2 and main(["weights", "add"]) == 2
    assert main(["weights", "list", "--trained-on", "x"]) == 2
    assert main(["weights", "list", "--as", "x"]) == 2 and main(["weights", "list", "--offline"]) == 2


def test_the_list_describes_own_weights_and_marks_the_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = {"model": UNet3D(channels=(2, 4)).state_dict(), "network": SMALL}
    torch.save(content | METRICS, "a.pt")
    torch.save(content, "b.pt")
    first = add_weights("a.pt", trained_on="our own 90 scans")
    add_weights("b.pt").with_suffix(".json").unlink()
    assert main(["weights", "list"]) == 0
    own = capsys.readouterr().out.partition("\na: ")[2].splitlines()
    told = ["added from a.pt", "  licence      unknown", "  trained on   our own 90 scans"]
    told.append("  scores       kidney_dice 0.9500, tumour_dice 0.8700, mean_dice 0.9100")
    told += [f"  here         {first} (0.0 MB)", "  used         by `predict` without --checkpoint"]
    assert own[:6] == told and own[6] == "b: of unknown origin"
    assert own[8:10] == ["  trained on   unknown", "  scores       unknown"]
    assert own[-1] == f"`predict` without --checkpoint uses {first}" and "used" not in "".join(own[7:-1])
    Path("bundle/models").mkdir(parents=True)
    Path("a.pt").rename("bundle/models/model.pt")
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert "used   " not in printed and printed.endswith("uses bundle/models/model.pt\n")


def test_a_published_file_at_hand_needs_no_network(stand_in, tmp_path):
    file, published, _ = stand_in
    weights_directory().mkdir(parents=True)
    (weights_directory() / published.file).write_bytes(file.read_bytes())
    assert download_weights(published, offline=True) == published.path and published.path.is_file()


def test_added_weights_of_another_name_are_never_replaced(tmp_path):
    content = {"model": UNet3D(channels=(2, 4)).state_dict(), "network": SMALL}
    torch.save(content, tmp_path / "own.pt")
    whole = add_weights(tmp_path / "own.pt").read_bytes()
    torch.save({**content, "model": UNet3D(channels=(2, 4)).state_dict()}, tmp_path / "own.pt")
    with pytest.raises(UsageError, match="choose another with --as"):
        add_weights(tmp_path / "own.pt")
    assert (weights_directory() / "own.safetensors").read_bytes() == whole
