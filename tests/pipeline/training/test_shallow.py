"""Weight gradients in bf16 on a CPU: right where a training may begin."""

import pytest
import torch
from conftest import bundle_config
from monai.networks.nets import DynUNet

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.training import refuse_patch, refuse_shallow_bf16

pytestmark = pytest.mark.numeric

CHANNELS = [2, 4, 8, 16]
DYNUNET = dict(
    spatial_dims=3, in_channels=1, out_channels=3, kernel_size=[3] * 3, strides=[1, 2, 2], upsample_kernel_size=[2, 2],
    filters=[2, 4, 8], deep_supervision=True, deep_supr_num=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("network", "roi"),
    [
        (UNet3D(channels=CHANNELS), (32, 64, 64)),
        (UNet3D(in_channels=2, channels=CHANNELS), (32, 64, 64)),
        (DynUNet(**DYNUNET), (8, 16, 16)),
    ],
)
def test_a_convolution_two_slices_deep_is_refused_in_bf16_alone(network, roi, capsys):
    weights = [p.data_ptr() for p in network.parameters()]
    refuse_shallow_bf16(network, roi, resolve("cpu", "fp32"))
    refuse_shallow_bf16(network, (roi[0] + 16, *roi[1:]), resolve("cpu", "bf16"))
    assert not capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        refuse_shallow_bf16(network, roi, resolve("cpu", "bf16"))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and " x ".join(map(str, roi)) in said and "--precision fp32" in said
    assert weights == [p.data_ptr() for p in network.parameters()]  # neither moved nor replaced


@pytest.mark.parametrize(
    ("network", "roi", "reason"),
    [
        (UNet3D(channels=CHANNELS), (1, 1, 1), "Expected more than 1 spatial element"),
        (UNet3D(channels=CHANNELS), (16, 16, 16), "Expected more than 1 spatial element"),
        (UNet3D(channels=CHANNELS), (32, 32, 40), "must be a multiple of 16"),
        (DynUNet(**DYNUNET), (8, 8, 9), "Sizes of tensors must match"),
    ],
)
def test_a_patch_that_the_network_cannot_take_is_refused(network, roi, reason, capsys):
    refuse_patch(network, (32, 32, 32))
    with pytest.raises(SystemExit) as ended:
        refuse_patch(network, roi)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and reason in error
    assert f"roi_size {' x '.join(map(str, roi))}: the network cannot take such patches" in error
    assert "$training.refuse_patch(@network_def, @roi_size)" in bundle_config("train")["training"]


@pytest.mark.parametrize("depth", [1, 3, 4, 8])
def test_other_depths_have_the_gradient_of_fp32(depth):
    torch.manual_seed(0)
    image = torch.randn(2, 16, depth, 5, 5).bfloat16().to(memory_format=torch.channels_last_3d)
    outer = torch.randn(2, 16, depth, 5, 5).bfloat16()
    weight = (0.1 * torch.randn(16, 16, 3, 3, 3)).bfloat16()

    def gradient(dtype):
        w = weight.detach().clone().to(dtype).requires_grad_()
        torch.nn.functional.conv3d(image.to(dtype), w, padding=1).backward(outer.to(dtype))
        return w.grad.float()

    expected = gradient(torch.float32)
    atol = 0.01 * expected.abs().max().item()
    for _ in range(5):
        torch.full((2**20,), float("inf"))  # what unwritten memory would hold
        torch.testing.assert_close(gradient(torch.bfloat16), expected, atol=atol, rtol=0.02)
