import pickle
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch

from kits_unet3d.networks import CheckpointError, UNet3D, load_weights, network_state, read_checkpoint
from kits_unet3d.pipeline.model import build_network, describe_network, read_model

SMALL = {"channels": (2, 4)}


def changed(network):
    return {name: value + 1 for name, value in network.state_dict().items()}


@pytest.mark.parametrize("key", ["model", "best_model_state_dict", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_known_layout_loads(tmp_path, key, prefix):
    network = UNet3D(**SMALL)
    wanted = changed(network)
    state = {prefix + name: value for name, value in wanted.items()}
    torch.save({key: state} if key else state, tmp_path / "file.pt")
    load_weights(network, network_state(read_checkpoint(tmp_path / "file.pt")))
    for name, value in network.state_dict().items():
        assert torch.equal(value, wanted[name])


def test_weights_of_another_network_are_refused_and_none_are_copied():
    network, other = UNet3D(**SMALL), UNet3D(channels=(2, 6))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"downsample.0.conv1.0.weight: \(6, 2, 3, 3, 3\) in the file, \(4, 2"):
        load_weights(network, other.state_dict(), "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch should-not-exist",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    for name, why in {"evil.pt": "can run code", "plain.pt": "not written by torch.save"}.items():
        with pytest.raises(CheckpointError, match=f"{name}: .*{why}"):
            read_checkpoint(name)
    assert not (tmp_path / "should-not-exist").exists()


@pytest.mark.parametrize("content", [b"", b"ab", b"not a checkpoint", b"<html>" * 30, b"PK\x03\x04", None])
def test_a_damaged_or_missing_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}: (damaged|no such)"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": UNet3D(**SMALL).state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_a_checkpoint_names_its_network():
    from functools import partial

    description = describe_network(partial(UNet3D, out_channels=2, channels=[2, 4]))
    assert description == {"_target_": "kits_unet3d.networks.UNet3D", "out_channels": 2, "channels": [2, 4]}
    assert build_network(description).out_channels == 2


@pytest.mark.parametrize("target", ["os.system", "kits_unet3d.networks.read_checkpoint", "UNet3D", "torch.nn.Linear"])
def test_a_checkpoint_cannot_name_anything_but_a_trusted_network(target):
    with pytest.raises(CheckpointError, match="network"):
        build_network({"_target_": target, "command": "true"})


def test_a_network_fetches_no_weights_on_a_files_word(monkeypatch):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        build_network({"_target_": "monai.networks.nets.HoVerNet", "pretrained_url": url})
        server.shutdown()
    assert not asked
    # Its weights would be fetched unless it is told otherwise; and one whose weights are always fetched is not made.
    description = {"_target_": "monai.networks.nets.EfficientNetBN", "model_name": "efficientnet-b0", "in_channels": 3}
    monkeypatch.setattr("torch.utils.model_zoo.load_url", lambda url, **_: asked.append(url))
    assert build_network(description)
    assert not asked
    with pytest.raises(CheckpointError, match="cannot be made"):
        build_network({"_target_": "monai.networks.nets.Transchex", "path_or_repo_id": "some/repository"})


@pytest.mark.parametrize("channels", [[2, -4], [2, "x"], [10**15, 4]])
def test_invalid_channels_in_a_checkpoint_are_reported(channels):
    with pytest.raises(CheckpointError, match="some.pt: its network cannot be made"):
        build_network({"_target_": "kits_unet3d.networks.UNet3D", "out_channels": 2, "channels": channels}, "some.pt")


def test_a_bare_state_dict_needs_to_be_told_its_network(tmp_path):
    from functools import partial

    torch.save(UNet3D(**SMALL).state_dict(), tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="its network's name"):
        read_model(tmp_path / "bare.pt")
    assert read_model(tmp_path / "bare.pt", partial(UNet3D, **SMALL)).parameters.spacing_mm == (1.6, 1.2, 1.2)


def test_safetensors_load_and_a_damaged_one_is_named(tmp_path):
    from safetensors.torch import save_file

    network = UNet3D(**SMALL)
    wanted = changed(network)
    save_file(wanted, tmp_path / "file.safetensors")
    load_weights(network, network_state(read_checkpoint(tmp_path / "file.safetensors")))
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
    whole = (tmp_path / "file.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="half.safetensors: damaged"):
        read_checkpoint(tmp_path / "half.safetensors")
