"""The bundle's network as MONAI's own commands load and convert it."""

import json

import numpy as np
import pytest
import torch
from conftest import bundle_config, needs_scripted_onnx
from monai.bundle import ckpt_export, load, onnx_export

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.model import read_model

pytestmark = pytest.mark.numeric


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
    assert metadata["network_data_format"] == bundle_config("metadata")["network_data_format"]
    assert json.loads(extra["inference.json"])["preprocessing"]
    image = torch.randn(1, 1, 32, 32, 32)
    trained = read_model(tiny_checkpoint).network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image), trained(image), atol=1e-5, rtol=0)
        with pytest.raises(torch.jit.Error, match="multiple of 8"):
            network(torch.zeros(1, 1, 20, 32, 32))


@needs_scripted_onnx
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
