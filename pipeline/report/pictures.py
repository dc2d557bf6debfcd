"""Draw a picture of a scan with its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..io.labels import LabelMap, read_labels
from ..io.scan import Scan, read_scan, same_grid
from ..io.segments import COLOURS, Segment, segments_of, with_unnamed
from ..runtime.errors import CaseError
from ..runtime.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Display window in HU, from black to white: abdominal soft tissue.
WINDOW = (-160, 240)
#: Patient sides at the left and right edge of each view.
VIEWS = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}
#: Classes of a mask whose file does not name them: those of KiTS23, which are KiTS19's and the cyst.
USUAL = tuple(segments_of(("background", "kidney", "tumour", "cyst")))
#: Columns of the legend.
COLUMNS = 6
#: Most classes in the legend, and letters of a name.
MOST_CLASSES, MOST_LETTERS = 20, 40


def place_to_show(mask: np.ndarray, segments: Sequence[Segment] = USUAL) -> tuple[int, int, int]:
    """Choose slices through the middle of the tumour, else of the foreground, else of the volume.

    Args:
        mask: (slices, rows, columns) with axes to inferior, posterior, left.
        segments: its classes.

    Returns:
        Slice with the largest area of it, and the row and the column with most of it in that slice.
    """
    tumours = [segment.value for segment in segments if segment.name == "tumour"]
    for region in (np.isin(mask, tumours), mask > 0):
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
    segments: Sequence[Segment] = USUAL[:2],
    note: str = "",
    ground_truth_segments: Sequence[Segment] | None = None,
) -> Figure:
    """Draw the scan alone, with the ground truth (if given) and with the prediction; axial, coronal, sagittal.

    Each view has the patient's sides at its edges and a scale bar.

    Args:
        scan: the segmented scan.
        predicted, ground_truth: labels on the scan's grid, outlined in the colours of their classes. The slices go
            through the middle of the tumour, or kidney, in the ground truth if given, else in the prediction.
        segments: classes of the prediction; the legend calls others ``label N``.
        note: warning at the top.
        ground_truth_segments: classes of the ground truth, if they are not those of the prediction.
    """
    import matplotlib.figure  # an extra, needed for figures only

    image, affine = scan.grid.facing(scan.voxels)
    drawn = {"scan": None, "ground_truth": ground_truth, "prediction": predicted}
    masks = {name: None if m is None else scan.grid.facing(m)[0] for name, m in drawn.items()}
    if ground_truth is None:
        del masks["ground_truth"]
    of_ground_truth = segments if ground_truth_segments is None else ground_truth_segments
    given = {"ground_truth": of_ground_truth, "prediction": segments}
    classes = {n: with_unnamed(given[n], np.unique(mask)) for n, mask in masks.items() if mask is not None}
    colours = _colours([*classes["prediction"], *classes.get("ground_truth", ())])
    leading = "prediction" if ground_truth is None else "ground_truth"
    place = place_to_show(masks[leading], classes[leading])  # type: ignore[arg-type]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    figure = matplotlib.figure.Figure(figsize=(4 * len(masks), 11), facecolor="black", layout="constrained")
    for column, (name, mask) in enumerate(masks.items()):
        for axis, (view, edges) in enumerate(VIEWS.items()):
            axes = figure.add_subplot(3, len(masks), axis * len(masks) + column + 1)
            row_mm, column_mm = (float(size) for size in np.delete(sizes, axis))
            plane = np.take(image, place[axis], axis)
            axes.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=row_mm / column_mm)
            if mask is not None:
                _outline(axes, np.take(mask, place[axis], axis), {s.value: colours[s.name] for s in classes[name]})
            axes.text(0.02, 0.5, edges[0], color="white", transform=axes.transAxes)
            axes.text(0.98, 0.5, edges[1], color="white", transform=axes.transAxes, ha="right")
            _scale_bar(axes, plane.shape, column_mm)
            axes.set_axis_off()
            axes.set_title(f"{name}, {view}", color="white", fontsize=9)
    if note:
        figure.suptitle(note, color="#f0e442", fontsize=9, wrap=True)
    _legend(figure, colours)
    return figure


def _colours(segments: Sequence[Segment]) -> dict[str, str]:
    """Return the colour of each class by name: its own, or a free one if another class has that."""
    colours: dict[str, str] = {}
    for segment in segments:
        free = [colour for colour in COLOURS if colour not in colours.values()]
        taken = segment.colour in colours.values() and free
        colours.setdefault(segment.name, free[0] if taken else segment.colour)
    return colours


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    import matplotlib.lines

    names = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in colours][:MOST_CLASSES]
    if more := len(colours) - len(names):
        names[-1] = f"… and {more + 1} more"
    lines = [
        matplotlib.lines.Line2D([], [], color=colour, label="class") for colour in [*colours.values()][: len(names)]
    ]
    legend = figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=max(1, min(len(lines), COLUMNS)),
        facecolor="black",
        labelcolor="white",
        fontsize=8,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a file's name is plain text, whatever characters it has
        text.set_text(name)


def _outline(axes: Axes, labels: np.ndarray, colours: dict[int, str]) -> None:
    for number in np.unique(labels[labels > 0]):
        axes.contour(labels == number, levels=[0.5], colors=[colours[int(number)]], linewidths=1)


def _scale_bar(axes: Axes, shape: tuple[int, ...], column_mm: float) -> None:
    rows, columns = shape
    length = 50 if columns * column_mm >= 150 else 10  # in mm
    end = columns * 0.97
    axes.plot([end - length / column_mm, end], [rows * 0.96] * 2, color="white", linewidth=2)
    axes.text(end, rows * 0.94, f"{length} mm", color="white", fontsize=7, ha="right", va="bottom")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def save_picture(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a PNG; return its path."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    return Path(path)


def picture_of_files(
    scan: str | Path, mask: str | Path, path: str | Path, ground_truth: str | Path | None = None
) -> Path:
    """Write :func:`figure_of_files` as a PNG; return its path."""
    return save_picture(figure_of_files(scan, mask, ground_truth), path)


def figure_of_files(scan: str | Path, mask: str | Path, ground_truth: str | Path | None = None) -> Figure:
    """Call :func:`picture` on files that share one grid, with the classes that each file names.

    Raises:
        CaseError: if a file cannot be read, or a mask is on another grid.
    """
    read = read_scan(scan)

    def on_the_grid(file: str | Path) -> LabelMap:
        labels = read_labels(file)
        if not same_grid(labels, read):
            raise CaseError(f"{file}: is not on the grid of {scan}; give the mask of this scan")
        return labels

    predicted = on_the_grid(mask)
    if ground_truth is None:
        return picture(read, predicted.voxels, segments=_classes(predicted))
    truth = on_the_grid(ground_truth)
    return picture(
        read, predicted.voxels, truth.voxels, segments=_classes(predicted), ground_truth_segments=_classes(truth)
    )


def _classes(labels: LabelMap) -> Sequence[Segment]:
    """Return the classes of a label map for the legend.

    A long table gives those in the mask. Without a table they are kidney and tumour, and the cyst if there is one.
    """
    if labels.segments and len(labels.segments) <= len(COLOURS):
        return labels.segments
    present = set(np.unique(labels.voxels).tolist())
    always = () if labels.segments else USUAL[:2]
    return [one for one in labels.segments or USUAL if one.value in present or one in always]
