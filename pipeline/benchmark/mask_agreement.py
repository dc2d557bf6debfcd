"""Compare the masks of the predictor with those of the baseline and with ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from torch import nn

from kits_unet3d.transforms import PreprocessingParameters

from ..device import resolve
from ..inference import Predictor, find_scans
from ..model import read_model
from . import baseline
from .measure import BASELINE, Row
from .setting import Setting

#: The baseline's own variation: without the first 16 mm of each axis, other sliding windows cover the same voxels.
CUT = "baseline, scan cut by 16 mm"
CUT_MM = 16.0
#: Least Dice with the baseline's masks, and largest loss of Dice with ground truth against the baseline.
EQUAL, LOSS = 0.995, 0.005


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the Dice of two sets of voxels; 1 if both are empty."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def _labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def _baseline(network: nn.Module, parameters: PreprocessingParameters, scan: Path, directory: Path) -> np.ndarray:
    """Return the baseline's mask of a NIfTI file."""
    baseline.predict(network, parameters, scan, directory)
    (file,) = directory.glob(f"{scan.name.partition('.')[0]}_seg.nii*")
    mask = _labels(file).copy()
    file.unlink()
    return mask


def _cut(scan: Path, directory: Path) -> tuple[Path, tuple[slice, ...]]:
    """Copy a NIfTI file without the first :data:`CUT_MM` of each axis, at most a quarter; return the kept slices."""
    image: Any = nib.load(scan)
    sizes = zip(image.header.get_zooms()[:3], image.shape, strict=True)
    left = tuple(slice(min(round(CUT_MM / size), n // 4), None) for size, n in sizes)
    directory.mkdir(parents=True, exist_ok=True)
    nib.save(image.slicer[left], directory / "cut.nii.gz")
    return directory / "cut.nii.gz", left


def agreement(setting: Setting, options: Mapping[str, Mapping[str, Any]], default: str) -> Iterator[Row]:
    """Yield the mean Dice of kidney and tumour over the scans, with the baseline's masks and with ground truth.

    Args:
        setting: with checkpoint and scans; labels are optional.
        options: of :class:`Predictor`, by name.
        default: name of the default options, which have goals: Dice :data:`EQUAL` with the baseline's masks, and at
            most :data:`LOSS` below the baseline's Dice with ground truth.
    """
    model = read_model(setting.checkpoint)  # type: ignore[arg-type]
    network, out = model.network.eval(), setting.directory / "agreement"
    predictors = {
        f"{precision}, {name}": Predictor(model, resolve("cpu", precision), **values)
        for precision in ("fp32", "bf16")
        for name, values in options.items()
    }
    found: dict[tuple[str, str], list[float]] = {}
    for scan in find_scans(setting.scans):  # type: ignore[arg-type]
        masks = {BASELINE: _baseline(network, model.parameters, scan.path, out)}
        masks |= {name: predictor.predict(scan).mask for name, predictor in predictors.items()}
        cut, left = _cut(scan.path, out)
        masks[CUT] = np.zeros_like(masks[BASELINE])
        masks[CUT][left] = _baseline(network, model.parameters, cut, out)
        file = None if setting.labels is None else setting.labels / scan.name / "segmentation.nii.gz"
        label = _labels(file) if file is not None and file.is_file() else None
        for name, mask in masks.items():
            seen = left if name == CUT else ()
            for other, reference in ((BASELINE, masks[BASELINE]), ("ground truth", label)):
                if reference is not None and name != other:
                    for part, lowest in (("kidney", 1), ("tumour", 2)):
                        found.setdefault((f"{part} Dice with {other}", name), []).append(
                            dice(mask[seen] >= lowest, reference[seen] >= lowest)
                        )
    means = {key: float(np.mean(values)) for key, values in found.items()}
    held = {f"{precision}, {default}" for precision in ("fp32", "bf16")}
    for (what, name), values in sorted(found.items()):
        goal = None
        if name in held:
            goal = means[what, BASELINE] - LOSS if what.endswith("ground truth") else EQUAL
        yield Row(what, name, means[what, name], "", at_least=goal, work={"cases": len(values)}, values=values)
