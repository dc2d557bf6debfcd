import subprocess
import sys

import pytest
import torch

from kits_unet3d.pipeline import distributed
from kits_unet3d.pipeline.device import DeviceError, resolve, seed_everything


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
