"""A picture of a scan with its masks, to look at."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import CaseError
from ...files import whole_file
from ..scan import Scan, read_scan, same_grid

#: HU shown from black to white: abdominal soft tissue.
WINDOW = (-160, 240)
COLOURS = {1: "#30d158", 2: "#ff453a"}


def _facing(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The array with its axes running to inferior, posterior, left, as radiologists look at slices."""
    ornt = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
    )
    return nib.orientations.apply_orientation(array, ornt)


def _slice_to_show(mask: np.ndarray) -> int:
    """The axial slice with most tumour, else most kidney, else the middle one."""
    for region in (mask == 2, mask > 0):
        if region.any():
            return int(np.argmax(region.sum(axis=(1, 2))))
    return mask.shape[0] // 2


def save_picture(scan: Scan, predicted: np.ndarray, path: str | Path, truth: np.ndarray | None = None) -> Path:
    """Writes a PNG: the scan alone, then with the truth (if given), then with the prediction, axial and coronal.

    Args:
        scan: what was segmented.
        predicted, truth: labels on the scan's grid; kidney is outlined green, tumour red.
        path: of the PNG.
    """
    import matplotlib.figure  # an extra: only who wants figures needs it

    image = _facing(scan.voxels, scan.affine)
    masks: dict[str, np.ndarray | None] = {"scan": None}
    leading = masks["prediction"] = _facing(predicted, scan.affine)
    if truth is not None:
        leading = masks["truth"] = _facing(truth, scan.affine)
    axial = _slice_to_show(leading)
    coronal = int(np.argmax((leading > 0).sum(axis=(0, 2)))) if (leading > 0).any() else leading.shape[1] // 2
    slice_mm, row_mm, column_mm = _facing_spacing(scan)
    figure = matplotlib.figure.Figure(figsize=(4 * len(masks), 7.5), facecolor="black", layout="constrained")
    axes = figure.subplots(2, len(masks), squeeze=False)
    order = ("scan", "truth", "prediction")
    for column, (name, mask) in enumerate(sorted(masks.items(), key=lambda item: order.index(item[0]))):
        views = (
            (image[axial], None if mask is None else mask[axial], row_mm / column_mm),
            (image[:, coronal], None if mask is None else mask[:, coronal], slice_mm / column_mm),
        )
        for axis, (plane, outline, aspect) in zip(axes[:, column], views, strict=True):
            axis.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=aspect)
            for number, colour in COLOURS.items():
                if outline is not None and (outline == number).any():
                    axis.contour(outline == number, levels=[0.5], colors=[colour], linewidths=1)
            axis.set_axis_off()
        axes[0, column].set_title(name, color="white")
    for axis in axes[:, 0]:
        axis.text(0.02, 0.5, "R", color="white", transform=axis.transAxes)
    path = Path(path)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    return path


def _facing_spacing(scan: Scan) -> tuple[float, float, float]:
    ornt = nib.orientations.io_orientation(scan.affine)
    world = np.empty(3)
    world[ornt[:, 0].astype(int)] = scan.spacing_mm  # right-left, anterior-posterior, superior-inferior
    return float(world[2]), float(world[1]), float(world[0])


def picture_of_files(scan: str | Path, mask: str | Path, path: str | Path, truth: str | Path | None = None) -> Path:
    """:func:`save_picture` from files that lie on one grid."""
    read = read_scan(scan)

    def on_the_grid(file: str | Path) -> np.ndarray:
        labels = read_scan(file)
        if not same_grid(labels, read):
            raise CaseError(f"{file}: lies on another grid than {scan}")
        return labels.voxels

    return save_picture(read, on_the_grid(mask), path, None if truth is None else on_the_grid(truth))
