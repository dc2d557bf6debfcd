"""Check the adapter on the simulated device; test_simulated_selfcheck.py runs this in a process of its own."""

import pytest
import torch
import torch.distributed as dist
import torch_mlu
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch.utils.data import DataLoader

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.data import seed_everything
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.inference import AutocastInferer, ReferenceWindows
from kits_unet3d.pipeline.inference.backends import make_backend
from kits_unet3d.pipeline.runtime import distributed
from kits_unet3d.pipeline.runtime.compilation import compiled
from kits_unet3d.pipeline.runtime.errors import DeviceError
from kits_unet3d.pipeline.training import TrainStep

#: Of what needs tensors on the device, which an old torch cannot have.
TENSORS = pytest.mark.skipif(not torch_mlu.TENSORS, reason="this torch lets Python make no device's tensors")


def test_auto_prefers_it_and_says_what_it_is():
    torch.backends.cnnl.allow_tf32 = True
    described = resolve("auto").describe()
    assert described["device"] == "mlu:0" and described["name"] == "simulated MLU"
    assert described["runtime"] == f"torch_mlu {torch_mlu.__version__}"
    assert described["collectives"] == "cpu:gloo,mlu:cncl"
    assert described["deterministic"] == "not guaranteed" and described["accelerators"] == 1
    assert {type(value) for value in described.values()} <= {str, int, bool}


def test_auto_prefers_it_to_a_card_of_another_kind(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve("auto").kind == "mlu"
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert resolve("auto").kind == "cuda"


def test_fp32_means_fp32_and_tf32_is_on_only_if_asked_for():
    torch.backends.cnnl.allow_tf32 = True
    assert resolve("mlu").describe()["tf32"] is False and torch.backends.cnnl.allow_tf32 is False
    assert resolve("mlu", "tf32").describe()["tf32"] is True and torch.backends.mlu.matmul.allow_tf32 is True
    described = resolve("mlu")
    torch.backends.cnnl.allow_tf32 = True  # by someone else, afterwards
    assert described.describe()["tf32"] is True
    assert resolve("mlu").describe()["tf32"] is False


def test_a_switch_that_a_version_lacks_is_said_to_be_unknown(monkeypatch):
    monkeypatch.delattr(torch.backends, "cnnl")
    assert resolve("mlu").describe()["tf32"] == "unknown"


def test_bf16_is_refused_where_the_card_lacks_it(monkeypatch):
    assert resolve("mlu", "bf16").describe()["bf16"] is True
    monkeypatch.setattr(torch.mlu, "is_bf16_supported", lambda: False)
    with pytest.raises(DeviceError, match="mlu:0 does not compute in bf16"):
        resolve("mlu", "bf16")


def test_a_card_that_is_not_there_is_an_error(monkeypatch):
    with pytest.raises(DeviceError, match="mlu:1 is not available: 1 accelerator"):
        resolve("mlu", local_rank=1)
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError, match="the driver shows no accelerator"):
        resolve("mlu")
    assert resolve("auto").kind == "cpu"


def test_each_process_takes_the_card_of_its_rank(monkeypatch):
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(resolve("mlu").device) == "mlu:1" and torch.mlu.current_device() == 1
    resolve("mlu", local_rank=0)


def test_memory_seed_and_random_generator_are_the_devices():
    accelerator = resolve("mlu")
    assert set(accelerator.memory()) == {"allocated", "peak", "reserved", "free", "total"}
    calls = torch.mlu.CALLS.copy()
    seed_everything(3)
    state = accelerator.rng_state()
    assert state["kind"] == "mlu" and state["state"].device.type == "cpu" and accelerator.set_rng_state(state)
    assert not accelerator.set_rng_state(resolve("cpu").rng_state())
    accelerator.synchronize()
    for name in ("manual_seed_all", "get_rng_state", "set_rng_state", "synchronize"):
        assert torch.mlu.CALLS[name] == calls[name] + 1, name


@TENSORS
def test_batches_are_pinned():
    accelerator, before = resolve("mlu"), torch.mlu.CALLS["pin_memory"]
    next(iter(DataLoader(torch.rand(2, 3), pin_memory=accelerator.pin_memory)))
    assert torch.mlu.CALLS["pin_memory"] > before


def trained(accelerator, factors=(1.0, 1.0), channels_last=False):
    """Losses, weights and scales after two steps, and the scale before them."""
    seed_everything(0)
    network = accelerator.wrap(UNet3D(channels=(2, 4)), channels_last)
    step, remaining, losses, scales = TrainStep(accelerator), iter(factors), [], []
    batch = {"image": torch.rand(1, 1, 8, 8, 8), "label": torch.randint(0, 3, (1, 1, 8, 8, 8))}
    trainer = SupervisedTrainer(
        device=accelerator.device,
        max_epochs=len(factors),
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True),
        loss_function=lambda p, t: torch.nn.functional.cross_entropy(p, t[:, 0].long()) * next(remaining),
        inferer=SimpleInferer(),
        iteration_update=step,
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scales.append(step.scaler.get_scale()))
    trainer.run()
    return losses, [p.detach().cpu() for p in network.parameters()], scales


@TENSORS
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_in_fp32_is_the_cpus_bit_for_bit_and_casts_nothing(channels_last):
    casts = sum(torch_mlu.report()["casts"].values())
    expected, got = (trained(resolve(name), channels_last=channels_last) for name in ("cpu", "mlu"))
    assert expected[0] == got[0]
    assert all(torch.equal(a, b) for a, b in zip(expected[1], got[1], strict=True))
    assert sum(torch_mlu.report()["casts"].values()) == casts


@TENSORS
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_casts_convolutions_in_training_and_inference(precision):
    accelerator = resolve("mlu", precision)

    def convolutions():
        return sum(count for name, count in torch_mlu.report()["casts"].items() if "conv" in name)

    before = convolutions()
    trained(accelerator)
    assert convolutions() > before
    before = convolutions()
    network = UNet3D(channels=(2, 4)).eval().to(accelerator.device)
    logits = AutocastInferer(ReferenceWindows(8), accelerator)(
        torch.rand(1, 1, 8, 8, 8).to(accelerator.device), network
    )
    assert convolutions() > before and logits.dtype == torch.float32


@TENSORS
def test_an_overflow_leaves_the_weights_and_halves_the_scale():
    seed_everything(0)
    fresh = UNet3D(channels=(2, 4))
    _, weights, scales = trained(resolve("mlu", "fp16"), factors=(1e6,))
    assert scales == [2.0**15]
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), weights, strict=True))


@TENSORS
def test_a_network_stays_as_it_is_with_a_warning_if_it_cannot_be_compiled(caplog):
    accelerator = resolve("mlu")
    network = UNet3D(channels=(2, 4)).eval().to(accelerator.device)
    image = torch.rand(1, 1, 8, 8, 8).to(accelerator.device)
    expected = network(image).cpu()
    assert torch.equal(compiled(network, accelerator)(image).cpu(), expected)
    assert torch.equal(make_backend("compiled", network, accelerator, (1, 1, 8, 8, 8))(image).cpu(), expected)
    warnings = [record.getMessage() for record in caplog.records if "`compiled` is left out" in record.getMessage()]
    assert len(warnings) == 2 and "torch's compiler fails on mlu:0" in warnings[0]


@TENSORS
def test_its_collectives_refuse_a_cpu_tensor_without_gloo_beside_them(tmp_path):
    device = resolve("mlu").device
    dist.init_process_group("cncl", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        numbers = torch.ones(2, device=device)
        dist.all_reduce(numbers)
        assert numbers.tolist() == [1, 1]
        with pytest.raises(RuntimeError, match="Tensors must be MLU"):
            dist.all_reduce(torch.ones(2))
    finally:
        dist.destroy_process_group()


@TENSORS
def test_with_gloo_beside_them_results_on_the_cpu_can_be_gathered(tmp_path):
    accelerator = resolve("mlu")
    dist.init_process_group(accelerator.backend, init_method=f"file://{tmp_path}/both", rank=0, world_size=1)
    try:
        parts = [None]
        dist.all_gather_object(parts, {"case": 1.0})
        assert parts == [{"case": 1.0}] and distributed.world_size() == 1
    finally:
        dist.destroy_process_group()


@TENSORS
def test_tensors_of_two_devices_do_not_mix():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="mlu") + torch.ones(2)


@TENSORS
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_float64_reaches_the_device(precision):
    before = torch_mlu.report()["float64"]
    trained(resolve("mlu", precision))
    assert torch_mlu.report()["float64"] == before
