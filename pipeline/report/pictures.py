"""Draw a picture of a scan with its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..io.labels import read_labels
from ..io.mask import colour_of, segments_of
from ..io.scan import Scan, read_scan, same_grid
from ..masks.connected_components import TUMOUR
from ..runtime.errors import CaseError
from ..runtime.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Display window in HU, from black to white: abdominal soft tissue.
WINDOW = (-160, 240)
#: Patient sides at the left and right edge of each view.
VIEWS = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}


def place_to_show(mask: np.ndarray) -> tuple[int, int, int]:
    """Choose slices through the middle of the tumour, else of the foreground, else of the volume.

    Args:
        mask: (slices, rows, columns) with axes to inferior, posterior, left.

    Returns:
        Slice with the largest area of it, and the row and the column with most of it in that slice.
    """
    for region in (mask == TUMOUR, mask > 0):
        if region.any():
            axial = int(np.argmax(region.sum(axis=(1, 2))))
            plane = region[axial]
            return axial, int(np.argmax(plane.sum(axis=1))), int(np.argmax(plane.sum(axis=0)))
    slices, rows, columns = mask.shape
    return slices // 2, rows // 2, columns // 2


def picture(
    scan: Scan,
    predicted: np.ndarray,
    ground_truth: np.ndarray | None = None,
    classes: Sequence[str] = ("background", "kidney", "tumour"),
    note: str = "",
) -> Figure:
    """Draw the scan alone, with the ground truth (if given) and with the prediction; axial, coronal, sagittal.

    Each view has the patient's sides at its edges and a scale bar.

    Args:
        scan: the segmented scan.
        predicted, ground_truth: labels on the scan's grid, outlined in the colours of their classes. The slices go
            through the middle of the tumour, or kidney, in the ground truth if given, else in the prediction.
        classes: names of the labels for the legend, background first.
        note: warning at the top.
    """
    import matplotlib.figure  # an extra, needed for figures only
    import matplotlib.lines

    image, affine = scan.grid.facing(scan.voxels)
    given = {"scan": None, "ground_truth": ground_truth, "prediction": predicted}
    masks = {name: None if m is None else scan.grid.facing(m)[0] for name, m in given.items()}
    if ground_truth is None:
        del masks["ground_truth"]
    leading, _ = scan.grid.facing(predicted if ground_truth is None else ground_truth)
    place = place_to_show(leading)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    figure = matplotlib.figure.Figure(figsize=(4 * len(masks), 11), facecolor="black", layout="constrained")
    for column, (name, mask) in enumerate(masks.items()):
        for axis, (view, edges) in enumerate(VIEWS.items()):
            axes = figure.add_subplot(3, len(masks), axis * len(masks) + column + 1)
            row_mm, column_mm = (float(size) for size in np.delete(sizes, axis))
            plane = np.take(image, place[axis], axis)
            axes.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=row_mm / column_mm)
            if mask is not None:
                _outline(axes, np.take(mask, place[axis], axis))
            axes.text(0.02, 0.5, edges[0], color="white", transform=axes.transAxes)
            axes.text(0.98, 0.5, edges[1], color="white", transform=axes.transAxes, ha="right")
            _scale_bar(axes, plane.shape, column_mm)
            axes.set_axis_off()
            axes.set_title(f"{name}, {view}", color="white", fontsize=9)
    if note:
        figure.suptitle(note, color="#f0e442", fontsize=9, wrap=True)
    names = [
        matplotlib.lines.Line2D([], [], color=segment.colour, label=segment.name) for segment in segments_of(classes)
    ]
    figure.legend(
        handles=names, loc="outside lower center", ncols=len(names), facecolor="black", labelcolor="white", fontsize=8
    )
    return figure


def _outline(axes: Axes, labels: np.ndarray) -> None:
    for number in np.unique(labels[labels > 0]):
        axes.contour(labels == number, levels=[0.5], colors=[colour_of(int(number))], linewidths=1)


def _scale_bar(axes: Axes, shape: tuple[int, ...], column_mm: float) -> None:
    rows, columns = shape
    length = 50 if columns * column_mm >= 150 else 10  # in mm
    end = columns * 0.97
    axes.plot([end - length / column_mm, end], [rows * 0.96] * 2, color="white", linewidth=2)
    axes.text(end, rows * 0.94, f"{length} mm", color="white", fontsize=7, ha="right", va="bottom")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def save_picture(
    scan: Scan,
    predicted: np.ndarray,
    path: str | Path,
    ground_truth: np.ndarray | None = None,
    classes: Sequence[str] = ("background", "kidney", "tumour"),
    note: str = "",
) -> Path:
    """Write :func:`picture` as a PNG; return its path."""
    path = Path(path)
    with whole_file(path) as temporary:
        picture(scan, predicted, ground_truth, classes, note).savefig(temporary, dpi=90, format="png")
    return path


def picture_of_files(
    scan: str | Path, mask: str | Path, path: str | Path, ground_truth: str | Path | None = None
) -> Path:
    """Call :func:`save_picture` on files that share one grid."""
    read = read_scan(scan)

    def on_the_grid(file: str | Path) -> np.ndarray:
        labels = read_labels(file)
        if not same_grid(labels, read):
            raise CaseError(f"{file}: is not on the grid of {scan}; give the mask of this scan")
        return labels.voxels

    return save_picture(read, on_the_grid(mask), path, None if ground_truth is None else on_the_grid(ground_truth))
