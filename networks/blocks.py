"""Building blocks of the 3D U-Net.

The attribute names (``conv1``, ``conv2``, ``upsample_conv``) and the positions inside each
``Sequential`` are those of the MLPerf reference, so that its checkpoints load strictly.
"""

from __future__ import annotations

import torch
from torch import nn


def conv_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3³ convolution without bias, instance norm with affine, ReLU."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(out_channels, affine=True),
        nn.ReLU(inplace=True),
    )


class DoubleConv(nn.Module):
    """Two conv blocks; the first one has stride ``stride`` (2 in the encoder, 1 at the input).

    Maps (B, in_channels, D, H, W) to (B, out_channels, D / stride, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_block(in_channels, out_channels, stride)
        self.conv2 = conv_block(out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class UpBlock(nn.Module):
    """Doubles the resolution, joins the skip connection as [up, skip], then two conv blocks.

    ``x`` is (B, in_channels, D, H, W), ``skip`` (B, out_channels, 2D, 2H, 2W); the result has skip's shape.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # With a bias and nothing after it: unlike the other blocks, and part of the recipe.
        self.upsample_conv = nn.Sequential(nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2))
        self.conv1 = conv_block(2 * out_channels, out_channels)
        self.conv2 = conv_block(out_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.upsample_conv(x), skip), dim=1)
        return self.conv2(self.conv1(x))


class OutputLayer(nn.Module):
    """1³ convolution from features to class logits."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)
