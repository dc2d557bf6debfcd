"""Define the building blocks of the 3D U-Net.

The attribute names (``conv1``, ``conv2``, ``upsample_conv``) and the positions inside each
``Sequential`` equal those of the MLPerf reference, so its checkpoints load strictly.
"""

from __future__ import annotations

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
