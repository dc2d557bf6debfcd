"""Every backend gives the network's own logits, and whatever cannot is left out."""

import logging
import subprocess
import sys

import pytest
import torch
from conftest import needs_compiler
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import Predictor
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.inference import BackendInferer
from kits_unet3d.pipeline.inference import backends as all_backends
from kits_unet3d.pipeline.inference import openvino as intel
from kits_unet3d.pipeline.inference.agreement import DisagreementError, MissingBackendError, require_agreement
from kits_unet3d.pipeline.inference.backends import BACKENDS, make_backend

pytestmark = pytest.mark.numeric

WINDOW = (1, 1, 16, 16, 16)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network() -> nn.Module:
    torch.manual_seed(5)
    made = UNet3D(channels=(4, 8)).eval()
    for norm in made.modules():
        if isinstance(norm, nn.InstanceNorm3d):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    return made


def require(name):
    if name == "openvino":
        pytest.importorskip("openvino")


SLOW = pytest.param("compiled", marks=[pytest.mark.slow, needs_compiler])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["eager", "channels_last", SLOW, "openvino"])
def test_an_engine_gives_the_networks_logits(name, precision):
    require(name)
    plain, windows = network(), torch.randn(2, *WINDOW[1:])
    backend = make_backend(name, plain, resolve("cpu", precision), WINDOW)
    with torch.inference_mode():
        expected, got = plain(windows), backend(windows)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    tolerance = 1e-4 if precision == "fp32" else 0.05
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
    # OpenVINO alone takes FP32 where the processor has no bf16.
    if precision == "bf16" and (name != "openvino" or resolve("cpu", "auto").precision == "bf16"):
        assert (got - expected).abs().max() > 1e-4, "computed in FP32"


def test_the_network_is_left_as_it_is():
    plain = network()
    before = {name: (value.clone(), value.stride()) for name, value in plain.state_dict().items()}
    make_backend("channels_last", plain, resolve("cpu"), WINDOW)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name][0]) and value.stride() == before[name][1]
    assert any(isinstance(module, nn.InstanceNorm3d) for module in plain.modules())


def test_openvino_reuses_its_cache_unless_the_cache_is_damaged():
    require("openvino")
    plain, approved = network(), []
    image = torch.randn(WINDOW)
    first = intel.OpenVINO(plain, resolve("cpu"), WINDOW, approved.append)(image)
    (blob,) = intel.cache_directory().glob("*.blob")
    again = intel.OpenVINO(plain, resolve("cpu"), WINDOW, approved.append)(image)
    assert len(approved) == 1
    torch.testing.assert_close(again, first, atol=1e-6, rtol=0)
    blob.write_bytes(blob.read_bytes()[:1000])
    torch.testing.assert_close(intel.OpenVINO(plain, resolve("cpu"), WINDOW, approved.append)(image), first)
    assert len(approved) == 2
    with torch.no_grad():  # other weights are another network
        plain.output.conv.bias += 1
    torch.testing.assert_close(intel.OpenVINO(plain, resolve("cpu"), WINDOW)(image), first + 1, atol=1e-4, rtol=0)
    assert len(list(intel.cache_directory().glob("*.blob"))) == 2


#: Two backends, the first gone before the second; then the end of a child, which a data loader has a handler for.
TWO_BACKENDS = """
import signal, subprocess
from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.inference.backends import make_backend
signal.signal(signal.SIGCHLD, lambda *_: None)
backends = [make_backend("openvino", UNet3D(channels=(2, 4)).eval(), resolve("cpu"), (1, 1, 16, 16, 16)) for _ in "ab"]
while backends:
    backends.pop(0)
subprocess.run(["true"], check=True)
"""


def test_a_process_outlives_two_engines_of_openvino():
    require("openvino")
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", TWO_BACKENDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_openvino_that_is_not_let_pass_is_not_cached():
    require("openvino")

    def refuse(backend):
        raise DisagreementError("no")

    with pytest.raises(DisagreementError):
        intel.OpenVINO(network(), resolve("cpu"), WINDOW, refuse)
    assert not list(intel.cache_directory().glob("*.blob"))


def test_what_computes_something_else_is_found_out():
    def shifted(image):
        return torch.cat([image, -image, image * 0], 1)

    require_agreement(shifted, lambda x: shifted(x) + 1e-4, WINDOW, "fp32")
    with pytest.raises(DisagreementError, match="differ from the network's by up to"):
        require_agreement(shifted, lambda x: shifted(x) + 0.1, WINDOW, "fp32")
    with pytest.raises(DisagreementError, match="keep their class"):
        require_agreement(lambda x: shifted(x) * 0.01, lambda x: shifted(x) * -0.01, WINDOW, "bf16")


def test_auto_falls_back_with_a_warning_to_an_engine_that_agrees(monkeypatch, caplog):
    monkeypatch.setattr(all_backends, "WORTH_MAKING", {"openvino": 0, "channels_last": 0})

    class Data(nn.Module):
        """What OpenVINO cannot convert: a step that depends on the values."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.device.type == "meta" or x.sum() > -1e9 else x

    require("openvino")
    plain = Data().eval()
    with caplog.at_level(logging.WARNING, "kits_unet3d.inference"):
        backend = all_backends.choose_backend(plain, resolve("cpu"), WINDOW, 8)
    assert type(backend).__name__ == "ChannelsLast"
    assert "the inference backend openvino is not used" in caplog.text
    image = torch.randn(WINDOW)
    torch.testing.assert_close(backend(image), plain(image))


def test_auto_makes_no_engine_for_little_work():
    """A 3³ convolution from 1 channel to 2 on 4³ voxels: 2 · 27 · 1 · 2 · 64 operations."""
    small = nn.Conv3d(1, 2, 3, padding=1)
    assert all_backends.operations(small, (1, 1, 4, 4, 4)) == 2 * 27 * 2 * 64
    assert type(all_backends.choose_backend(small, resolve("cpu"), (1, 1, 4, 4, 4), 10)).__name__ == "Eager"


def test_auto_outlives_an_engine_that_fails_without_a_word(monkeypatch, caplog):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(all_backends, "WORTH_MAKING", {"channels_last": 0})
    monkeypatch.setattr(all_backends, "make_backend", fail)
    assert type(all_backends.choose_backend(network(), resolve("cpu"), WINDOW, 8)).__name__ == "Eager"
    assert "the inference backend channels_last is not used: AssertionError" in caplog.text


def test_auto_runs_eagerly_what_cannot_be_counted(caplog):
    class Branching(nn.Module):
        """On the device meta there are no values to look at."""

        def forward(self, x):
            return x if x.sum() > 0 else -x

    plain = Branching().eval()
    backend = all_backends.choose_backend(plain, resolve("cpu"), WINDOW, 1e9)
    assert type(backend).__name__ == "Eager" and "operations cannot be counted" in caplog.text
    image = torch.randn(WINDOW)
    assert torch.equal(backend(image), plain(image))


def test_openvino_says_what_it_cannot_do():
    require("openvino")
    with pytest.raises(MissingBackendError, match="not on cpu in fp16; use --backend eager"):
        make_backend("openvino", network(), resolve("cpu", "fp16"), WINDOW)


def test_the_compiler_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingBackendError, match="C\\+\\+ compiler|mixes up networks"):
        make_backend("compiled", network(), resolve("cpu"), WINDOW)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "compiled"])
def test_an_inferer_gives_the_same_volume_in_any_engine(name):
    require(name)
    plain, image = network(), torch.randn(1, 1, 24, 20, 16)
    windows = SlidingWindowInferer(WINDOW[2:], sw_batch_size=2, overlap=0.5)
    made = BackendInferer(windows, resolve("cpu"), WINDOW[2:], name)
    with torch.inference_mode():
        torch.testing.assert_close(made(image, plain), windows(image, plain), atol=1e-4, rtol=0)


def test_an_inferer_of_no_fixed_windows_runs_eagerly():
    plain, image = network(), torch.randn(1, 1, 24, 20, 16)
    with torch.inference_mode():
        assert torch.equal(BackendInferer(SimpleInferer(), resolve("cpu"))(image, plain), plain(image))


@pytest.mark.parametrize("name", ["auto", "openvino"])
def test_the_predictor_finds_the_same_mask_in_another_engine(model_file, raw_phantoms, name, monkeypatch):
    require("openvino")
    original = all_backends.choose_backend
    chosen = []
    monkeypatch.setattr(all_backends, "WORTH_MAKING", dict.fromkeys(BACKENDS, 0.0))  # even for so small a network

    def choose(*given):
        chosen.append(original(*given))
        return chosen[-1]

    monkeypatch.setattr(all_backends, "choose_backend", choose)
    scan = raw_phantoms / "case_00000" / "imaging.nii.gz"
    masks = [Predictor(model_file, "cpu", backend=e).predict(scan).mask for e in ("eager", "channels_last", name)]
    assert all((mask == masks[0]).mean() > 0.999 for mask in masks)
    assert [type(backend) for backend in chosen] == [intel.OpenVINO] * (name == "auto")


def test_an_unknown_engine_is_refused(model_file):
    with pytest.raises(ValueError, match="backend must be one of auto, openvino"):
        Predictor(model_file, "cpu", backend="steam")
