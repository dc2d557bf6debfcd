import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.data import seed_everything
from kits_unet3d.pipeline.device import Accelerator, resolve
from kits_unet3d.pipeline.inference import AutocastInferer, ReferenceWindows
from kits_unet3d.pipeline.runtime import distributed
from kits_unet3d.pipeline.runtime.errors import DeviceError
from kits_unet3d.pipeline.training import TrainStep
from kits_unet3d.pipeline.training.step import NotFiniteError


def test_auto_finds_a_device_and_says_what_it_is():
    accelerator = resolve("auto")
    described = accelerator.describe()
    assert {type(value) for value in described.values()} <= {str, int, bool}
    assert described["device"] == str(accelerator.device)
    assert described["torch"] == torch.__version__ and described["tf32"] is False


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mlu", "torch_mlu is not installed"),
        ("cuda", "without CUDA"),
        ("xpu", "built without XPU"),
        ("abacus", "does not know this device"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_never_a_quiet_cpu_run(name, reason):
    if name in ("cuda", "xpu", "mlu") and getattr(getattr(torch, name, None), "is_available", lambda: False)():
        pytest.skip(f"{name} is there")
    if reason.startswith(("without", "built without")) and getattr(torch.version, name, "") is not None:
        reason = "the driver shows no accelerator"  # built with it, or older than the record of it
    with pytest.raises(DeviceError, match=reason) as caught:
        resolve(name)
    assert name in str(caught.value)


def test_fp32_is_a_true_no_op_and_bf16_casts_convolutions():
    convolution, image = torch.nn.Conv3d(1, 1, 1), torch.rand(1, 1, 2, 2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        accelerator = resolve("cpu", precision)
        with accelerator.autocast():
            assert torch.is_autocast_enabled("cpu") == (precision != "fp32")
            assert convolution(image).dtype == dtype
        assert not accelerator.scaler().is_enabled()
    with pytest.raises(ValueError, match="precision must be one of"):
        resolve("cpu", "fp8")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("__version__ = '1.24.1-torch2.5.0'", "torch_mlu 1.24.1-torch2.5.0 and torch"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol"),
    ],
)
def test_an_incompatible_torch_mlu_is_reported_with_a_compatible_version(tmp_path, monkeypatch, source, reason):
    (tmp_path / "torch_mlu.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_mlu", raising=False)
    for name in ("mlu", "auto"):
        with pytest.raises(DeviceError, match=reason) as caught:
            resolve(name)
        assert torch.__version__ in str(caught.value) and "torch_mlu 1.34 with torch 2.13" in str(caught.value)
        sys.modules.pop("torch_mlu", None)
    assert resolve("cpu").kind == "cpu"


def test_a_cpu_has_no_tf32_and_keeps_no_record_of_memory():
    with pytest.raises(DeviceError, match="cpu does not support TF32"):
        resolve("cpu", "tf32")
    assert resolve("cpu").memory() == {}


def test_rng_state_is_restored_only_on_the_same_kind_of_device():
    accelerator = resolve("cpu")
    state = accelerator.rng_state()
    first = torch.rand(3)
    assert accelerator.set_rng_state(state) and torch.equal(torch.rand(3), first)
    before = torch.get_rng_state()
    assert not accelerator.set_rng_state({**state, "kind": "abacus"})
    assert torch.equal(torch.get_rng_state(), before)


def convolution_dtypes(network):
    """The type of what each convolution gives, as the network runs."""
    seen = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_inference_casts_every_convolution_and_returns_float32(precision, dtype):
    torch.manual_seed(0)
    network, image = UNet3D(channels=(2, 4)).eval(), torch.rand(1, 1, 12, 8, 8)
    plain = ReferenceWindows(8)(image, network)
    seen = convolution_dtypes(network)
    logits = AutocastInferer(ReferenceWindows(8), resolve("cpu", precision))(image, network)
    assert set(seen) == {dtype} and len(seen) > 10
    assert logits.dtype == torch.float32
    assert torch.equal(logits, plain) == (precision == "fp32")
    torch.testing.assert_close(logits, plain, rtol=0.1, atol=0.1)


def half_precision_trainer(factors):
    """A trainer in fp16, and its step, which it does for each number; that step's loss is multiplied by it."""
    torch.manual_seed(0)
    network, step, remaining = UNet3D(channels=(2, 4)), TrainStep(resolve("cpu", "fp16")), iter(factors)
    batch = {"image": torch.rand(1, 1, 8, 8, 8), "label": torch.randint(0, 3, (1, 1, 8, 8, 8))}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=len(factors),
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=lambda p, t: torch.nn.functional.cross_entropy(p, t[:, 0]) * next(remaining),
        inferer=SimpleInferer(),
        iteration_update=step,
        decollate=False,
    )
    return trainer, step


def test_an_overflow_leaves_the_weights_and_halves_the_scale():
    trainer, step = half_precision_trainer([1e6, 1e-6])  # the first makes gradients that float16 cannot hold
    network = trainer.network
    seen, scales, weights = convolution_dtypes(network), [], []
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: weights.append([p.clone() for p in network.parameters()])
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scales.append(step.scaler.get_scale()))
    trainer.run()
    assert set(seen) == {torch.float16}
    assert scales == [2.0**15, 2.0**15]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[1], network.parameters(), strict=True))


def test_fp16_training_ends_if_no_loss_scale_gives_finite_gradients():
    trainer, step = half_precision_trainer([1e30] * 30)
    trainer.logger.disabled = True
    with pytest.raises(NotFiniteError, match="loss scale dropped to 0.5 in epoch 17, iteration 17"):
        trainer.run()
    assert step.scaler.get_scale() == 0.5


def test_the_channels_last_key_sets_the_memory_format_of_the_weights():
    accelerator = resolve("cpu")
    for asked in (False, True):
        config = ConfigParser()
        config.read_config(ROOT / "bundle" / "configs" / "train.json")
        config.update({"channels": [2, 4], "channels_last": asked, "device_name": "cpu"})
        for network in (
            accelerator.wrap(UNet3D(channels=(2, 4)), channels_last=asked),
            config.get_parsed_content("network"),
        ):
            weights = [p for p in network.parameters() if p.dim() == 5 and min(p.shape) > 1]
            assert weights and {p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights} == {asked}


def present(monkeypatch, kind, accelerators=1):
    """Lets torch say that it has cards of a kind; gives the list of those that are then chosen."""
    chosen, module = [], getattr(torch, kind)
    monkeypatch.setattr(module, "is_available", lambda: True, raising=False)
    monkeypatch.setattr(module, "device_count", lambda: accelerators)
    monkeypatch.setattr(module, "set_device", lambda device: chosen.append(str(device)), raising=False)
    return chosen


def test_auto_selects_the_available_accelerator_and_the_local_device(monkeypatch):
    if hasattr(torch, "accelerator"):  # since torch 2.6
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
        chosen = present(monkeypatch, "xpu", accelerators=2)
        assert str(resolve("auto", local_rank=1).device) == "xpu:1" and chosen == ["xpu:1"]
    chosen = present(monkeypatch, "cuda")
    assert str(resolve("auto").device) == "cuda:0" and chosen == ["cuda:0"]


def test_a_device_whose_module_cannot_choose_a_card_serves_too(monkeypatch):
    present(monkeypatch, "mps")
    monkeypatch.delattr(torch.mps, "set_device", raising=False)
    assert str(resolve("mps").device) == "mps:0"
    assert {resolve("mps").describe()[key] for key in ("collectives", "deterministic")} == {"gloo", "not guaranteed"}


def test_each_kind_gathers_by_its_own_collectives_with_gloo_beside_them():
    backends = {kind: Accelerator(torch.device(kind, 0)).backend for kind in ("cpu", "cuda", "xpu", "mtia")}
    xpu = "cpu:gloo,xpu:xccl" if "xpu" in torch.distributed.Backend.default_device_backend_map else "gloo"
    assert backends == {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": xpu, "mtia": "gloo"}


def test_several_processes_share_gradients_on_the_card_of_each(monkeypatch):
    given = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.nn.parallel, "DistributedDataParallel", lambda network, device_ids: given.append(device_ids)
    )
    for device in (torch.device("meta", 1), torch.device("cpu")):
        Accelerator(device).wrap(torch.nn.Linear(1, 1))
    assert given == [[1], None]


def test_cuda_computes_in_tf32_only_if_asked_to(monkeypatch):
    present(monkeypatch, "cuda")
    torch.backends.cudnn.allow_tf32 = True  # as torch starts
    for precision in ("fp32", "tf32", "fp32"):
        resolve("cuda", precision)
        switches = {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}
        assert switches == {precision == "tf32"}


def test_bf16_that_a_card_only_emulates_does_not_count(monkeypatch):
    present(monkeypatch, "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(DeviceError, match="cuda:0 does not compute in bf16"):
        resolve("cuda", "bf16")


@pytest.mark.parametrize("name", ["cpu:abc", "cpu:", "cpu:0:1"])
def test_what_is_no_device_is_said_to_be_none(name):
    with pytest.raises(DeviceError, match=f"'{name}' is not a device"):
        resolve(name)


def test_the_file_that_knows_devices_is_read_in_one_sitting():
    assert len((ROOT / "pipeline" / "device.py").read_text().splitlines()) <= 300


def test_a_seed_gives_the_same_numbers():
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        seed_everything(5)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(1))))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_alone_a_process_has_all_the_work():
    assert distributed.join(resolve("cpu")) == 0 and distributed.world_size() == 1
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert list(distributed.gather_by_case({"b": 1, "a": 2}).items()) == [("a", 2), ("b", 1)]


WORKER = """
from kits_unet3d.pipeline.runtime import distributed
from kits_unet3d.pipeline.device import resolve
accelerator = resolve("cpu")
rank = distributed.join(accelerator)
mine = distributed.share(list("abcde"))
merged = distributed.gather_by_case({case: rank for case in mine})
assert merged == {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0}, merged
print("merged on rank", rank, flush=True)
"""


def test_two_processes_share_cases_and_gather_them(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("merged on rank") == 2
