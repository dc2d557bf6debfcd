"""Define the 3D U-Net of MLPerf training's image segmentation benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def conv_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Build a 3³ convolution without bias, an affine instance norm and a ReLU."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(out_channels, affine=True),
        nn.ReLU(inplace=True),
    )


class DoubleConv(nn.Module):
    """Apply two conv blocks; the first has stride ``stride`` (2 in the encoder, 1 at the input).

    Maps (B, in_channels, D, H, W) to (B, out_channels, D / stride, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_block(in_channels, out_channels, stride)
        self.conv2 = conv_block(out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class UpBlock(nn.Module):
    """Double the resolution, concatenate [up, skip] and apply two conv blocks.

    ``x`` is (B, in_channels, D, H, W), ``skip`` is (B, out_channels, 2D, 2H, 2W). The result has the shape of ``skip``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # As in the reference, this layer has a bias and no norm or ReLU after it, unlike the other blocks.
        self.upsample_conv = nn.Sequential(nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2))
        self.conv1 = conv_block(2 * out_channels, out_channels)
        self.conv2 = conv_block(out_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.upsample_conv(x), skip), dim=1)
        return self.conv2(self.conv1(x))


class OutputLayer(nn.Module):
    """Map features to class logits by a 1³ convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class UNet3D(nn.Module):
    """Build a 3D U-Net with instance norm; the defaults give the MLPerf network (31,190,243 parameters).

    Args:
        in_channels: channels of the image; 1 for CT.
        out_channels: classes; 3 for KiTS19 (background, kidney, tumour).
        channels: channels of each level, from full resolution downwards. Each level after the first halves
            the resolution. The bottleneck halves it once more, with as many channels as the last level.

    The input is (B, in_channels, D, H, W). D, H and W are multiples of 2 ** len(channels) (32 by default).
    They must leave more than one voxel at the bottleneck, for instance norm.
    The output is logits of shape (B, out_channels, D, H, W).

    Raises:
        ValueError: if there are fewer than two levels, a count is below 1, or the input does not fit.

    Source: the PyTorch reference of MLPerf training v1.0 to v4.0 (image segmentation), parameter names included.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256, 320),
    ) -> None:
        super().__init__()
        channels = tuple(int(c) for c in channels)
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels must be at least two positive numbers, got {tuple(channels)}")
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"in_channels and out_channels must be positive, got {in_channels}, {out_channels}")
        self.in_channels, self.out_channels, self.channels = in_channels, out_channels, channels
        self.input_block = DoubleConv(in_channels, channels[0])
        self.downsample = nn.ModuleList(
            DoubleConv(a, b, stride=2) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        self.bottleneck = DoubleConv(channels[-1], channels[-1], stride=2)
        ascending = (channels[-1], *channels[::-1])
        self.upsample = nn.ModuleList(UpBlock(a, b) for a, b in zip(ascending[:-1], ascending[1:], strict=True))
        self.output = OutputLayer(channels[0], out_channels)

    @property
    def stride(self) -> int:
        """Return the number that must divide each spatial size of the input."""
        return 1 << len(self.channels)  # TorchScript treats 2 ** n as a float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.input_block(x)]
        for block in self.downsample:
            skips.append(block(skips[-1]))
        x = self.bottleneck(skips[-1])
        for block in self.upsample:
            skip = skips.pop()
            if list(skip.shape[2:]) != [2 * n for n in x.shape[2:]]:
                raise ValueError(
                    f"each spatial size of the input must be a multiple of {self.stride}; "
                    f"a level of size {list(skip.shape[2:])} cannot be halved and doubled again"
                )
            x = block(x, skip)
        return self.output(x)
