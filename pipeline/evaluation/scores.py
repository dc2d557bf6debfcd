"""Compute Dice and surface distances of structures, and keep scores by case with their means."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.transforms import generate_spatial_bounding_box

from ..data.datasets import KITS23_CLASSES
from ..io.segments import TERMS
from ..runtime.files import text_cell, whole_file, write_json
from .lesions import detection, find_lesions


def dice(predicted: np.ndarray, ground_truth: np.ndarray) -> float:
    """Compute the Dice of two boolean arrays; 1 if both are empty, 0 if one is."""
    total = int(predicted.sum()) + int(ground_truth.sum())
    return 2 * int((predicted & ground_truth).sum()) / total if total else 1.0


@dataclass(frozen=True)
class Scoring:
    """Define the structures of a data set that are scored.

    Attributes:
        structures: classes of each structure, by name.
        tolerances_mm: tolerance of a structure's surface Dice in mm, by name. The other structures have one at 1 mm
            and one at 3 mm.
        lesions: classes whose connected components count as lesions, by name.
        ranked: structures whose Dice make the mean Dice; all if empty.
        classes: names of the classes by value, background first, if they are known.
    """

    structures: Mapping[str, Sequence[int]]
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    lesions: Mapping[str, int] = field(default_factory=dict)
    ranked: Sequence[str] = ()
    classes: Sequence[str] = ()

    @property
    def values(self) -> dict[str, int]:
        """Return the value of each class by name; without ``classes``, of structures of a single known class."""
        alone = {name: of[0] for name, of in self.structures.items() if len(of) == 1 and name in TERMS}
        return {name: value for value, name in enumerate(self.classes) if value > 0} or alone

    def scores(
        self, predicted: np.ndarray, ground_truth: np.ndarray, spacing_mm: Sequence[float] | None = None
    ) -> dict[str, float | None]:
        """Compute ``<structure>_dice`` of two label maps of one shape.

        Args:
            predicted, ground_truth: label maps (X, Y, Z) of whole numbers.
            spacing_mm: voxel size in mm along their axes. If given, each Dice is followed by that structure's
                :func:`surface_scores`, such as ``tumour_hd95_mm`` and ``tumour_surface_dice_1mm``. A structure with a
                tolerance of its own has ``<structure>_surface_dice`` instead of those at 1 and 3 mm.

        Raises:
            ValueError: if the shapes differ.
        """
        if predicted.shape != ground_truth.shape:
            raise ValueError(f"the masks must have the same shape, got {predicted.shape} and {ground_truth.shape}")
        inside = _foreground(predicted, ground_truth)
        predicted, ground_truth = predicted[inside], ground_truth[inside]
        scores: dict[str, float | None] = {}
        for name, classes in self.structures.items():
            pair = np.isin(predicted, classes), np.isin(ground_truth, classes)
            scores[f"{name}_dice"] = dice(*pair)
            if spacing_mm is not None:
                own = self.tolerances_mm.get(name)
                tolerances = surface_dice_names(TOLERANCES_MM) if own is None else {"surface_dice": own}
                found = surface_scores(*pair, spacing_mm, tolerances)
                scores |= {f"{name}_{key}": value for key, value in found.items()}
        return scores

    def mean_dice(self, scores: Mapping[str, float | None]) -> float:
        """Return the mean Dice of the ranked structures from :meth:`scores`."""
        return float(np.mean([scores[f"{name}_dice"] for name in self.ranked or self.structures]))

    def find_lesions(
        self, predicted: np.ndarray, ground_truth: np.ndarray, voxel_ml: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Compare the lesions of two label maps, see :func:`~kits_unet3d.pipeline.evaluation.lesions.find_lesions`."""
        inside = _foreground(predicted, ground_truth)
        return find_lesions(predicted[inside], ground_truth[inside], self.lesions, voxel_ml)


#: KiTS19 counts the tumour as kidney. Source: the KiTS19 challenge's evaluation (Dice).
KITS19 = Scoring({"kidney": (1, 2), "tumour": (2,)}, lesions={"tumour": 2}, classes=KITS23_CLASSES[:3])
#: KiTS23's hierarchical classes with their tolerances, and the cyst alone. The challenge does not score the latter,
#: so it has the tolerance of the masses. Source: neheller/kits23, kits23/configuration/labels.py (c108835).
KITS23 = Scoring(
    {"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "tumour": (2,), "cyst": (3,)},
    {
        "kidney_and_masses": 1.0330772532390826,
        "masses": 1.1328796488598762,
        "tumour": 1.1498198361434828,
        "cyst": 1.1328796488598762,
    },
    {"tumour": 2, "cyst": 3},
    ("kidney_and_masses", "masses", "tumour"),
    KITS23_CLASSES,
)


def scoring_of(classes: Sequence[str]) -> Scoring:
    """Return KiTS23's scoring for its classes, and KiTS19's for unknown ones and all others with kidney and tumour.

    Other classes are scored each alone; ``classes[0]`` is the background.
    """
    if tuple(classes) == KITS23_CLASSES:
        return KITS23
    alone = {name: (value,) for value, name in enumerate(classes) if value > 0}
    return KITS19 if not alone or {"kidney", "tumour"} <= alone.keys() else Scoring(alone, classes=classes)


def kits19_scores(
    predicted: np.ndarray, ground_truth: np.ndarray, spacing_mm: Sequence[float] | None = None
) -> dict[str, float | None]:
    """Compute ``kidney_dice`` (classes 1 ∪ 2) and ``tumour_dice`` (class 2), see :meth:`Scoring.scores`."""
    return KITS19.scores(predicted, ground_truth, spacing_mm)


def _foreground(predicted: np.ndarray, ground_truth: np.ndarray) -> tuple[slice, ...]:
    """Return the bounding box of both masks, since no score uses the background around it."""
    low, high = generate_spatial_bounding_box(((predicted > 0) | (ground_truth > 0))[None])
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


#: Distances in mm up to which a piece of surface counts as found.
TOLERANCES_MM = (1, 3)
PERCENTILE = 95


def surface_dice_names(tolerances_mm: Sequence[float]) -> dict[str, float]:
    """Return each tolerance by the name of its score, such as ``surface_dice_3mm``."""
    return {f"surface_dice_{tolerance:g}mm": tolerance for tolerance in tolerances_mm}


def surface_scores(
    predicted: np.ndarray,
    ground_truth: np.ndarray,
    spacing_mm: Sequence[float],
    tolerances_mm: Sequence[float] | Mapping[str, float] = TOLERANCES_MM,
) -> dict[str, float | None]:
    """Compute ``hd95_mm`` and, for each tolerance, ``surface_dice_<tolerance>mm`` of two masks on one grid.

    Args:
        predicted, ground_truth: boolean, (X, Y, Z) or any other order of axes; true inside. A mask ends at the border
            of the array.
        spacing_mm: voxel size in mm along the three axes of the arrays, which are assumed perpendicular.
        tolerances_mm: tolerances of the surface Dice in mm, or these by the names of their scores.

    Returns:
        ``hd95_mm``: the larger of the two directed 95th percentiles, from 0. They are of the distances from the
        outermost voxels of one mask to the nearest such voxel of the other. None if just one mask is empty, since
        the distance is undefined; 0 if both are.
        ``surface_dice_…``: the share, 0 to 1, of both surfaces (weighted by area) that lies within the tolerance of
        the other one. 0 if just one mask is empty, 1 if both are.

    Raises:
        ValueError: if shapes differ or ``spacing_mm`` is not three positive numbers.

    Source: the distances of MONAI's ``compute_hausdorff_distance`` and ``compute_surface_dice``, the latter with
    the surface elements of Nikolov et al., https://arxiv.org/abs/1809.04430.
    """
    if predicted.shape != ground_truth.shape:
        raise ValueError(f"the masks must have the same shape, got {predicted.shape} and {ground_truth.shape}")
    if len(spacing_mm) != 3 or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 positive numbers, got {tuple(spacing_mm)}")
    names = dict(tolerances_mm) if isinstance(tolerances_mm, Mapping) else surface_dice_names(tolerances_mm)
    there = bool(predicted.any()), bool(ground_truth.any())
    if not all(there):
        same = not any(there)
        return {"hd95_mm": 0.0 if same else None, **dict.fromkeys(names, float(same))}
    # A rotated affine gives 3 mm as 3.0000002, which must not push a neighbour beyond a tolerance of 3 mm.
    spacing = [round(float(s), 6) for s in spacing_mm]
    a, b = (torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))[None, None] for mask in (predicted, ground_truth))
    per_tolerance = (1, len(names), *predicted.shape)
    with warnings.catch_warnings():
        # MONAI 1.6 triggers this warning of its own function.
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=PERCENTILE, spacing=spacing)
        shares = compute_surface_dice(
            a.expand(per_tolerance),
            b.expand(per_tolerance),
            [float(tolerance) for tolerance in names.values()],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
    return {"hd95_mm": float(distance), **{n: float(v) for n, v in zip(names, shares[0], strict=True)}}


@dataclass
class Scores:
    """Hold scores by case, each case with the same names.

    A score may be None where it is undefined for a case, such as the distance to an empty mask. Its mean leaves such
    a case out, and ``counted`` is the number of the other cases. ``lesions`` are the results of
    :meth:`Scoring.find_lesions` by case, if they were compared.
    """

    by_case: dict[str, dict[str, float | None]] = field(default_factory=dict)
    lesions: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    lesion_classes: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return list(next(iter(self.by_case.values()), {}))

    @property
    def mean(self) -> dict[str, float | None]:
        """Return the mean of each score over the cases that have it, equally weighted; None if no case has it."""
        return {name: float(np.mean(values)) if values else None for name, values in self._defined().items()}

    @property
    def counted(self) -> dict[str, int]:
        """Count the cases behind each mean."""
        return {name: len(values) for name, values in self._defined().items()}

    def _defined(self) -> dict[str, list[float]]:
        columns = {name: [scores[name] for scores in self.by_case.values()] for name in self.names}
        return {name: [value for value in values if value is not None] for name, values in columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return ``cases``, ``mean`` and ``counted``, for JSON; and ``lesions`` and ``detection``, if compared."""
        content = {"cases": self.by_case, "mean": self.mean, "counted": self.counted}
        return content | ({"lesions": self.lesions, "detection": self.detection} if self.lesions else {})

    @property
    def detection(self) -> dict[str, Any]:
        """Summarise the lesions, see :func:`~kits_unet3d.pipeline.evaluation.lesions.detection`."""
        return detection(self.lesions, self.lesion_classes)

    def write(self, json_path: str | Path | None, csv_path: str | Path | None, **more: Any) -> None:
        """Write the table as JSON (:meth:`as_dict` and ``more``) and as CSV, each as a whole file.

        The CSV has a row per case with ``case_id`` and the scores, then the rows ``mean`` and ``counted``. An undefined
        score is null in the JSON and empty in the CSV.
        """
        if json_path is not None:
            write_json(json_path, {**self.as_dict(), **more})
        if csv_path is not None:
            self._write_csv(csv_path)

    def _write_csv(self, path: str | Path) -> None:
        rows: dict[str, Mapping[str, float | None]] = {**self.by_case, "mean": self.mean, "counted": self.counted}
        with (
            whole_file(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, ["case_id", *self.names], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"case_id": text_cell(case_id), **scores} for case_id, scores in rows.items())
