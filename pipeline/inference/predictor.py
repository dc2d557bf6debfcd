"""From a scan to a mask, in Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from monai.inferers import Inferer

from ..device import Accelerator, resolve
from ..model import Model, read_model
from .autocast import AutocastInferer
from .bundle_io import scan_preparation
from .restore import RestoreToScand
from .scan import Scan, read_scan, write_mask
from .windows import ReferenceWindows


@dataclass(frozen=True)
class Prediction:
    """Result for one scan; ``mask`` is uint8 (X, Y, Z) on the scan's own grid."""

    scan: Scan
    mask: np.ndarray
    classes: tuple[str, ...]

    @property
    def affine(self) -> np.ndarray:
        return self.scan.affine

    @cached_property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each class above the background, in mL."""
        voxel_ml = abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        return {name: float(counts[i]) * voxel_ml for i, name in enumerate(self.classes) if i > 0}

    def save(self, folder: str | Path) -> Path:
        """Writes the mask as ``<name>_seg`` into ``folder``, in the scan's own format; returns its path."""
        return write_mask(self.mask, self.scan, folder)


class Predictor:
    """Segments scans with one model, loaded once.

    Args:
        model: a checkpoint's path, or a model already read.
        device: see :func:`kits_unet3d.pipeline.device.resolve`.
        inferer: how the network is run over a volume; the reference's sliding windows if not given.
        progress: show a bar over the windows.

    Example:
        >>> Predictor("path/to/model.pt").predict("path/to/scan.nii.gz").volumes_ml  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Model,
        device: str | Accelerator = "auto",
        inferer: Inferer | None = None,
        progress: bool = False,
    ) -> None:
        self.accelerator = device if isinstance(device, Accelerator) else resolve(device)
        self.model = model if isinstance(model, Model) else read_model(model)
        self.network = self.model.network.to(self.accelerator.device).eval()
        recipe = self.model.recipe
        windows = inferer or ReferenceWindows(
            recipe.roi_size, recipe.overlap, recipe.padding_value, stitch_device="cpu", progress=progress
        )
        self.inferer = AutocastInferer(windows, self.accelerator)
        self.preparation = scan_preparation(recipe)
        self.restore = RestoreToScand("pred")

    @torch.inference_mode()
    def predict(self, path: str | Path) -> Prediction:
        """The mask of one scan.

        Raises:
            CaseError: if the scan cannot be read or is no CT.
        """
        scan = read_scan(path)
        image = self.preparation({"image": str(path)})["image"][None].to(self.accelerator.device)
        logits = self.inferer(image, self.network)
        mask = self.restore({"pred": logits[0]})["pred"]
        return Prediction(scan, np.asarray(mask[0], dtype=np.uint8), self.model.recipe.classes)
