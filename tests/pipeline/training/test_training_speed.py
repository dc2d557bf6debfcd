"""What makes a training step faster changes nothing else."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from conftest import needs_compiler

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.runtime.compilation import can_compile, compiled
from kits_unet3d.pipeline.runtime.errors import DeviceError


def test_a_compiled_network_keeps_its_weight_names_and_outputs(monkeypatch):
    torch.compiler.reset()  # after other sizes in this process it would compile for any, too small ones too
    accelerator, network, image = resolve("cpu"), UNet3D(channels=(2, 4)), torch.rand(1, 1, 8, 8, 8)
    expected, names = network(image), list(network.state_dict())
    if can_compile(accelerator):
        made = compiled(network, accelerator)
        torch.testing.assert_close(made(image), expected, atol=1e-5, rtol=1e-4)
        assert list(made.state_dict()) == names
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler|mixes up networks"):
        compiled(network, accelerator)


def test_an_old_torch_refuses_to_compile_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.compiler, "config", None, raising=False)
    with pytest.raises(DeviceError, match="compiler of torch .* mixes up networks.*; use torch 2.10, or leave out"):
        compiled(UNet3D(channels=(2, 4)), resolve("cpu"))


COMPILE = """
import torch
from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.runtime.compilation import compiled
torch.manual_seed(0)
network, image = UNet3D(channels=(2, 4)), torch.rand(1, 1, 8, 8, 8)
torch.testing.assert_close(network(image), compiled(network, resolve("cpu"))(image), atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("order", [("avx2", "default"), ("default", "avx2")], ids=["older_first", "newer_first"])
def test_cpus_of_two_kinds_can_share_a_compilers_cache(order, tmp_path):
    """torch's own key does not tell them apart: a network compiled for the other gave NaN, or an abort."""
    for capability in order:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)


FAULTS = """
import resource, sys, torch
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.training import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory(resolve("cpu"))
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Five tensors of 64 MB, one after the other: pages come from the system each time, or not at all."""
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True)) for how in ("keep", "give back")
    )
    assert kept < 50 and given_back > 2 * (kept + 25)
