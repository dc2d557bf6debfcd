"""Predict the masks of scans in Python."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from ..device import Accelerator, resolve
from ..io import Found, ReadOptions
from ..io.mask import probabilities_file, write_mask
from ..io.scan import Scan, read_scan
from ..io.segments import segments_of
from ..masks.measurements import measure, volumes_ml
from ..masks.postprocessing import PostProcessing, split_kidneys
from ..model import Model, read_model
from ..report.pictures import picture
from ..runtime.errors import CaseError, UsageError
from ..runtime.memory import use_cpu_share
from .backends import AutocastInferer, BackendInferer
from .scan_transforms import labels_on_grid, scan_preprocessing
from .window_selection import DEFAULT, make_windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Prediction:
    """Hold the result for one scan; ``mask`` is uint8 (X, Y, Z) on the scan's own grid."""

    scan: Scan
    mask: np.ndarray
    classes: tuple[str, ...]

    @property
    def affine(self) -> np.ndarray:
        return self.scan.affine

    @cached_property
    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of each class above the background, in mL."""
        return volumes_ml(self.mask, self.scan.grid.voxel_ml, self.classes)

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Return volumes, connected components and flags; see :func:`masks.measurements.measure`."""
        return measure(self.scan, self.mask, self.classes)

    def figure(self, ground_truth: np.ndarray | None = None) -> Figure:
        """Draw the scan with the outlines of mask and ground truth in three views; needs the extra ``figures``."""
        return picture(self.scan, self.mask, ground_truth, segments_of(self.classes))

    def with_split_kidneys(self) -> Prediction:
        """Return the prediction with the left and the right kidney as two classes; see :func:`split_kidneys`."""
        mask, classes = split_kidneys(self.mask, self.scan, self.classes)
        return Prediction(self.scan, mask, classes)

    def save(self, directory: str | Path, mask_format: str = "scan") -> Path:
        """Write the mask into ``directory``, with the names of its classes; see :func:`write_mask`."""
        return write_mask(self.mask, self.scan.grid, directory, self.classes, mask_format)


class Predictor:
    """Segment scans with one model, loaded once.

    Args:
        model: a checkpoint's path, several for their mean, or a loaded model.
        device: see :func:`kits_unet3d.pipeline.device.resolve`.
        inferer: runs the network over a volume; sliding windows if not given.
        progress: show a bar over the windows.
        postprocessing: removes or relabels components of the masks; none if not given. Probabilities do not change.
        backend: inference backend; see :class:`BackendInferer`. For an ``inferer`` of your own it is eager.
        tta: use TTA by flipping, which takes eight times as long; only if ``model`` is given by its path.
        windows, roi: select the sliding windows; see :func:`make_windows`. With an ``inferer`` they are only recorded.

    Raises:
        UsageError: if ``tta`` is set for a model that is loaded without it.
        CheckpointError: if a checkpoint cannot be used.

    Example:
        >>> Predictor("path/to/model.pt").predict("path/to/scan.nii.gz").volumes_ml  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] | Model,
        device: str | Accelerator = "auto",
        inferer: Inferer | None = None,
        progress: bool = False,
        postprocessing: PostProcessing | None = None,
        backend: str = "auto",
        windows: Sequence[str] = DEFAULT,
        roi: str = "full",
        tta: bool = False,
    ) -> None:
        if tta and isinstance(model, Model) and not model.tta:
            raise UsageError("tta does not apply to a model that was read already; use read_model(…, tta=True)")
        use_cpu_share()
        self.accelerator = device if isinstance(device, Accelerator) else resolve(device)
        self.model = model if isinstance(model, Model) else read_model(model, tta=tta)
        self.network = self.model.network.to(self.accelerator.device).eval()
        parameters = self.model.parameters
        sliding = inferer or make_windows(parameters, windows, roi, "cpu", progress)
        ready = isinstance(sliding, AutocastInferer | BackendInferer)
        self.inferer = (
            sliding
            if ready
            else BackendInferer(sliding, self.accelerator, None if inferer else parameters.roi_size, backend)
        )
        self.postprocessing = postprocessing or None
        #: Settings that a result depends on, besides the model; inference backends give the same.
        self.settings: dict[str, Any] = {
            "precision": self.accelerator.precision,
            "windows": sorted(windows),
            "roi": roi,
            "tta": self.model.tta,
            **(vars(self.postprocessing) if self.postprocessing else {}),
        }
        self.preprocessing = scan_preprocessing(parameters)

    @torch.inference_mode()
    def predict(
        self,
        source: str | Path | Found | Scan,
        options: ReadOptions | None = None,
        probabilities: str | Path | None = None,
    ) -> Prediction:
        """Predict the mask of one scan.

        Args:
            source: a scan, or its location.
            options: for reading it.
            probabilities: file for the class probabilities, float16 (X, Y, Z, classes).

        Raises:
            CaseError: if the scan cannot be read or is not a CT.
        """
        scan = source if isinstance(source, Scan) else read_scan(source, options)
        classes = self.model.parameters.classes
        image = self.preprocessing({"image": scan})["image"][None].to(self.accelerator.device)
        logits: MetaTensor = self.inferer(image, self.network)[0]  # type: ignore[assignment]
        del image
        affine = logits.affine.cpu().numpy()
        values = logits.as_tensor().cpu()
        del logits
        if not all(torch.isfinite(of_class).all() for of_class in values):
            raise CaseError(
                f"{scan.path}: the network's output is not finite (NaN or infinity) in {self.accelerator.precision}; "
                "use --precision fp32, or another checkpoint"
            )
        with (
            nullcontext() if probabilities is None else probabilities_file(Path(probabilities), scan.grid, len(classes))
        ) as also:
            mask = labels_on_grid(values, affine, scan.grid.shape, scan.affine, also=also)
        if self.postprocessing:
            mask = self.postprocessing(mask, scan)
        return Prediction(scan, mask, classes)
