"""Define the sizes and files of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kits_unet3d.transforms import PreprocessingParameters

from ..model import Model, build_network


@dataclass(frozen=True)
class Setting:
    """Hold the sizes and files of a benchmark.

    Attributes:
        network: as :func:`kits_unet3d.pipeline.model.describe_network` describes it; its weights are fresh, since
            they do not affect the speed.
        loss: arguments of a MONAI loss, with its class as ``_target_``.
        directory: directory for the files that are made and read.
        patch: edge of sliding windows and training patches in voxels.
        grid: (D, H, W) of a preprocessed case.
        slices: numbers of slices of the raw cases, with 512 × 512 voxels each unless ``plane`` differs.
        plane: rows and columns of a raw case.
        repeats, slow: numbers of runs of quick and of slow contenders.
        checkpoint, scans, labels: a trained model, scans and ``case_XXXXX/segmentation.nii.gz`` to compare the masks
            of both paths; left out if not given.
    """

    network: Mapping[str, Any]
    loss: Mapping[str, Any]
    directory: Path
    patch: int = 128
    grid: tuple[int, int, int] = (190, 392, 392)
    slices: tuple[int, ...] = (611, 64, 470)
    plane: int = 512
    repeats: int = 5
    slow: int = 3
    checkpoint: Path | None = None
    scans: Path | None = None
    labels: Path | None = None

    @property
    def parameters(self) -> PreprocessingParameters:
        return PreprocessingParameters(roi_size=(self.patch,) * 3)

    def model(self) -> Model:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return Model(Stencil(build_network(self.network)).eval(), self.parameters)

    @classmethod
    def quick(cls, network: Mapping[str, Any], loss: Mapping[str, Any], directory: Path, **others: Any) -> Setting:
        """Return sizes that take seconds, to check that everything runs; the numbers mean nothing."""
        sizes: dict[str, Any] = {"patch": 32, "grid": (40, 64, 64), "slices": (24, 12), "plane": 48}
        return cls(network, loss, directory, **sizes, repeats=1, slow=1, **others)


class Stencil(nn.Module):
    """Find bright voxels at the cost of an untrained network, whose own logits are scaled to almost zero.

    A prediction thus runs the same second passes as with a trained network.
    """

    #: Threshold in normalised intensity; see :mod:`.scans`.
    THRESHOLD = 1.5

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x[:, :1] - self.THRESHOLD
        return 1e-6 * self.network(x) + torch.cat([-bright, bright, bright - 10], dim=1)
