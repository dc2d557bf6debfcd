"""Raw cases in KiTS19's layout: ``case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import CaseError, UsageError
from . import kits19

DATASET_FILE = "dataset.json"
#: Slice first, as KiTS19 is stored: axis 0 runs to inferior, 1 to posterior, 2 to left.
AXCODES = ("I", "P", "L")


@dataclass(frozen=True)
class RawCase:
    """One case before preparation; ``split`` is ``"training"`` or ``"evaluation"``."""

    case_id: str
    image: Path
    label: Path
    split: str


def find_cases(folder: str | Path) -> tuple[str, list[RawCase]]:
    """Name of the data set in ``folder`` and its labelled cases, sorted.

    A ``dataset.json`` beside the cases gives the name and the split
    (``{"name": …, "training": [ids], "evaluation": [ids]}``); without it the folder must be KiTS19, whose
    split is known.

    Raises:
        UsageError: if there is no folder, no case, or no split for one of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name the one that holds case_00000, case_00001, …")
    # A label without its image is kept: preparation then says which image is missing.
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/segmentation.nii.gz"))}
    if not any((path / "imaging.nii.gz").is_file() for path in found.values()):
        raise UsageError(
            f"{folder}: holds no case_XXXXX/imaging.nii.gz with segmentation.nii.gz beside it; "
            "fetch KiTS19 with `kits-unet3d download`, or make a data set with `kits-unet3d phantom`"
        )
    name, splits = _splits(folder)
    unknown = [case_id for case_id in found if case_id not in splits]
    if unknown:
        raise UsageError(
            f"{folder}: {', '.join(unknown[:3])} in no split; list each case under training or evaluation "
            f"in {folder / DATASET_FILE}"
        )
    return name, [
        RawCase(case_id, path / "imaging.nii.gz", path / "segmentation.nii.gz", splits[case_id])
        for case_id, path in found.items()
    ]


def _splits(folder: Path) -> tuple[str, dict[str, str]]:
    described = folder / DATASET_FILE
    if not described.is_file():
        return kits19.NAME, {case_id: case.split for case_id, case in kits19.known_cases().items()}
    try:
        content: dict[str, Any] = json.loads(described.read_text(encoding="utf-8"))
        training, evaluation = list(content["training"]), list(content["evaluation"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{described}: must be JSON with the lists training and evaluation ({error})") from error
    twice = sorted(set(training) & set(evaluation))
    if twice:
        raise UsageError(f"{described}: {', '.join(twice[:3])} in both splits; keep each case in one")
    splits = dict.fromkeys(training, "training") | dict.fromkeys(evaluation, "evaluation")
    return str(content.get("name", folder.name)), splits


def read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Voxels (D, H, W) as stored but in IPL order, voxel size in mm along D, H, W, and the affine of that order.

    The voxel size is the header's ``pixdim`` (float32 values), as the reference takes it.

    Raises:
        CaseError: if the file cannot be read or is not a 3-D volume.
    """
    try:
        image = nib.load(path)
        voxels = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
        zooms = image.header.get_zooms()  # type: ignore[attr-defined]
        affine = np.asarray(image.affine, dtype=np.float64)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel, gzip and zlib raise many types for a damaged file
        raise CaseError(f"{path}: cannot be read ({error}); copy or download it again") from error
    if voxels.ndim != 3:
        raise CaseError(f"{path}: has shape {voxels.shape}, not three axes")
    now = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(AXCODES))
    order = np.argsort(change[:, 0]).astype(int)
    spacing = tuple(float(zooms[axis]) for axis in order)
    oriented = affine @ nib.orientations.inv_ornt_aff(change, voxels.shape)
    return nib.orientations.apply_orientation(voxels, change), spacing, oriented  # type: ignore[return-value]


def read_case(case: RawCase, classes: int) -> dict[str, Any]:
    """Image (float32, HU) and label (uint8), each (1, D, H, W) in IPL order, with spacing and affine.

    Raises:
        CaseError: if the two do not belong together, or the label holds anything but whole numbers
            below ``classes``, or nothing at all.
    """
    image, spacing, affine = read_volume(case.image)
    label, _, label_affine = read_volume(case.label)
    if image.shape != label.shape:
        raise CaseError(f"{case.label}: shape {label.shape} differs from the image's {image.shape}; use its own")
    if not np.allclose(affine, label_affine, atol=1e-2):
        raise CaseError(f"{case.label}: lies elsewhere than its image (the affines differ); use its own")
    values, counts = np.unique(label, return_counts=True)
    strange = {float(v): int(n) for v, n in zip(values, counts, strict=True) if v not in range(classes)}
    if strange:
        raise CaseError(f"{case.label}: unknown label values {strange}; known are 0 to {classes - 1}")
    if len(values) == 1:
        raise CaseError(f"{case.label}: the whole label is {values[0]}, which nothing can be learnt from")
    if not np.isfinite(image).all():
        raise CaseError(f"{case.image}: holds voxels that are not finite numbers; export it again")
    return {
        "image": image.astype(np.float32)[None],
        "label": label.astype(np.uint8)[None],
        "spacing_mm": spacing,
        "affine": affine,
    }
