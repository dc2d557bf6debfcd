"""Whether the fast path finds what the plain one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..device import resolve
from ..inference import Predictor, find_scans, read_scan
from ..model import read_model
from . import plain
from .measure import Row
from .setting import Setting


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of voxels; 1 if both are empty."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def _labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def agreement(setting: Setting, options: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Mean Dice of kidney and tumour over the setting's scans: with the plain path's masks, and with truth.

    Args:
        setting: with checkpoint and scans; labels are optional.
        options: of :class:`Predictor`, by name.
    """
    model = read_model(setting.checkpoint)  # type: ignore[arg-type]
    network, out = model.network.eval(), setting.folder / "agreement"
    predictors = {
        f"{precision}, {name}": Predictor(model, resolve("cpu", precision), **values)
        for precision in ("fp32", "bf16")
        for name, values in options.items()
    }
    found: dict[tuple[str, str], list[float]] = {}
    for scan in find_scans(setting.scans):  # type: ignore[arg-type]
        plain.predict(network, model.recipe, scan.path, out)
        (file,) = out.glob(f"{scan.name.rpartition('/')[2]}_seg.nii*")
        masks = {"plain": _labels(file).reshape(read_scan(scan).voxels.shape)}
        masks |= {name: predictor.predict(scan).mask for name, predictor in predictors.items()}
        truth = None if setting.labels is None else setting.labels / scan.name / "segmentation.nii.gz"
        label = _labels(truth) if truth is not None and truth.is_file() else None
        for name, mask in masks.items():
            for other, reference in (("plain", masks["plain"]), ("truth", label)):
                if reference is not None and name != other:
                    for part, lowest in (("kidney", 1), ("tumour", 2)):
                        found.setdefault((f"{part} Dice with {other}", name), []).append(
                            dice(mask >= lowest, reference >= lowest)
                        )
        file.unlink()
    for (what, name), values in sorted(found.items()):
        yield Row(what, name, float(np.mean(values)), "", work={"cases": len(values)}, values=values)
