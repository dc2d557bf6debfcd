import subprocess
import sys

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import distributed
from kits_unet3d.pipeline.device import DeviceError, resolve, seed_everything
from kits_unet3d.pipeline.inference import AutocastInferer, ReferenceWindows
from kits_unet3d.pipeline.training import TrainStep


def test_auto_finds_a_device_and_says_what_it_is():
    accelerator = resolve("auto")
    described = accelerator.describe()
    assert {type(value) for value in described.values()} <= {str, int, bool}
    assert described["device"] == str(accelerator.device)
    assert described["torch"] == torch.__version__ and described["tf32"] is False


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mlu", "torch_mlu is not installed"), ("cuda", "without CUDA"), ("xpu", "xpu"), ("abacus", "no such device")],
)
def test_a_device_that_is_not_there_is_an_error_never_a_quiet_cpu_run(name, reason):
    if name in ("cuda", "xpu", "mlu") and getattr(getattr(torch, name, None), "is_available", lambda: False)():
        pytest.skip(f"{name} is there")
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
def test_a_vendors_package_for_another_torch_is_named_with_the_pairs_that_serve(tmp_path, monkeypatch, source, reason):
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
    with pytest.raises(DeviceError, match="cpu has no TF32"):
        resolve("cpu", "tf32")
    assert resolve("cpu").memory() == {}


def test_the_random_generator_goes_on_where_it_was_but_not_from_another_kind_of_device():
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


def test_an_overflow_leaves_the_weights_and_halves_the_scale():
    torch.manual_seed(0)
    network, step = UNet3D(channels=(2, 4)), TrainStep(resolve("cpu", "fp16"))
    seen, scales, weights = convolution_dtypes(network), [], []
    factors = iter([1e6, 1e-6])  # the first makes gradients that float16 cannot hold
    batch = {"image": torch.rand(1, 1, 8, 8, 8), "label": torch.randint(0, 3, (1, 1, 8, 8, 8))}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=lambda p, t: torch.nn.functional.cross_entropy(p, t[:, 0]) * next(factors),
        inferer=SimpleInferer(),
        iteration_update=step,
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: weights.append([p.clone() for p in network.parameters()])
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scales.append(step.scaler.get_scale()))
    trainer.run()
    assert set(seen) == {torch.float16}
    assert scales == [2.0**15, 2.0**15]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[1], network.parameters(), strict=True))


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
from kits_unet3d.pipeline import distributed
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
