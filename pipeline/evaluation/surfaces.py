"""How far apart two surfaces are, in millimetres; distances and areas are MONAI's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

#: Distances in mm up to which a piece of surface counts as found.
TOLERANCES_MM = (1, 3)
PERCENTILE = 95


def surface_scores(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
) -> dict[str, float | None]:
    """``hd95_mm`` and, for each tolerance, ``surface_dice_<tolerance>mm`` of two masks on one grid.

    Args:
        predicted, truth: boolean, (X, Y, Z) or any other order of axes; true inside. What touches the border
            of the array ends there.
        spacing_mm: size of a voxel along the three axes of the arrays, which are taken as perpendicular.
        tolerances_mm: of the surface Dice.

    Returns:
        ``hd95_mm``: the larger of the two directed 95th percentiles of the distances between the outermost
        voxels of one mask and the nearest such voxel of the other, from 0. None if just one mask is empty,
        since there is no such distance; 0 if both are.
        ``surface_dice_…``: the part, 0 to 1, of both surfaces (weighed by area) that lies no farther than the
        tolerance from the other one. 0 if just one mask is empty, 1 if both are.

    Raises:
        ValueError: if shapes differ or ``spacing_mm`` is not three positive numbers.

    Source: the distances of MONAI's ``compute_hausdorff_distance`` and ``compute_surface_dice``, the latter with
    the surface elements of Nikolov et al., https://arxiv.org/abs/1809.04430.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"the masks must have one shape, got {predicted.shape} and {truth.shape}")
    if len(spacing_mm) != 3 or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 positive numbers, got {tuple(spacing_mm)}")
    names = [f"surface_dice_{tolerance:g}mm" for tolerance in tolerances_mm]
    there = bool(predicted.any()), bool(truth.any())
    if not all(there):
        same = not any(there)
        return {"hd95_mm": 0.0 if same else None, **dict.fromkeys(names, float(same))}
    # A rotated affine gives 3 mm as 3.0000002, which must not push a neighbour beyond a tolerance of 3 mm.
    spacing = [round(float(s), 6) for s in spacing_mm]
    a, b = (torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))[None, None] for mask in (predicted, truth))
    per_tolerance = (1, len(names), *predicted.shape)
    with warnings.catch_warnings():
        # MONAI 1.6 calls a function of its own in a way that it warns of.
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=PERCENTILE, spacing=spacing)
        shares = compute_surface_dice(
            a.expand(per_tolerance),
            b.expand(per_tolerance),
            [float(tolerance) for tolerance in tolerances_mm],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
    return {"hd95_mm": float(distance), **{n: float(v) for n, v in zip(names, shares[0], strict=True)}}
