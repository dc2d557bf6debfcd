"""Write a batch's HTML report, with the slices of each scan."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.scan import Scan
from ..io.segments import Segment, segments_of, with_unnamed
from ..runtime.errors import UsageError
from ..runtime.files import whole_file
from .pictures import USUAL
from .summary import Report

#: Maximum number of slices of a scan, and of pixels along an edge of a slice.
MOST_SLICES, MOST_PIXELS = 96, 256
#: HU and their 8-bit grey values: finest for soft tissue, linear in between.
HU_OF_GREY = ((-1024, 0), (-200, 60), (300, 205), (1500, 255))
#: JPEG quality; at this value no difference is visible in any display window.
QUALITY = 85


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` of ``count`` indices, evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def slices_of(scan: Scan, mask: np.ndarray) -> dict[str, Any]:
    """Return axial slices for the viewer, from superior to inferior, as seen from the feet.

    Args:
        scan: in HU.
        mask: on the scan's grid.

    Returns:
        ``rows``, ``columns`` in pixels; ``pixel_mm`` of a row and a column; ``knots``, HU and their greys; and
        ``slices``, each with its ``number`` from above, ``image`` (a JPEG in base64), and ``runs``: first
        pixel (counted row by row), length and class of each run of foreground.
    """
    image, affine = scan.grid.facing(scan.voxels)
    labels, _ = scan.grid.facing(mask)
    _, row_mm, column_mm = np.linalg.norm(affine[:3, :3], axis=0)
    step = -(-max(image.shape[1:]) // MOST_PIXELS)
    rows, columns = image.shape[1] // step, image.shape[2] // step
    slices = []
    for number in evenly(len(image), MOST_SLICES):
        blocks = image[number, : rows * step, : columns * step].reshape(rows, step, columns, step)
        small = labels[number, step // 2 :: step, step // 2 :: step][:rows, :columns]
        slices.append({"number": int(number) + 1, "image": _jpeg(blocks.mean(axis=(1, 3))), "runs": _runs(small)})
    return {
        "rows": rows,
        "columns": columns,
        "pixel_mm": [float(row_mm) * step, float(column_mm) * step],
        "knots": HU_OF_GREY,
        "of": len(image),
        "slices": slices,
    }


def _jpeg(hu: np.ndarray) -> str:
    from PIL import Image  # comes with the extra for figures

    knots = np.array(HU_OF_GREY, dtype=np.float64)
    grey = np.interp(hu, knots[:, 0], knots[:, 1]).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _runs(labels: np.ndarray) -> list[int]:
    flat = labels.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=0))  # where the value changes
    lengths = np.diff(starts, append=flat.size)
    values = flat[starts]
    runs = np.stack([starts, lengths, values], axis=1)[values > 0]
    return [int(n) for n in runs.ravel()]


def save_slices(scan: Scan, mask: np.ndarray, path: str | Path) -> Path:
    """Write :func:`slices_of` as JSON, so that a continued batch can show them in its HTML report."""
    path = Path(path)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(slices_of(scan, mask), separators=(",", ":")), encoding="ascii")
    return path


def read_slices(path: str | Path, most: int = MOST_SLICES, segments: Sequence[Segment] = USUAL) -> dict[str, Any]:
    """Read at most ``most`` slices from :func:`save_slices`, with two more entries.

    ``first`` is the index of the slice shown first. It has the most tumour, else the most foreground; without either,
    it is the middle one. ``classes`` are value, name and colour of ``segments`` and of other values in the mask.
    """
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="ascii"))
    content["slices"] = [content["slices"][i] for i in evenly(len(content["slices"]), most)]
    tumours = [segment.value for segment in segments if segment.name == "tumour"]
    amounts, present = [], set()
    for plane in content["slices"]:
        lengths, values = np.array(plane["runs"][1::3], dtype=int), np.array(plane["runs"][2::3], dtype=int)
        amounts.append((int(lengths[np.isin(values, tumours)].sum()), int(lengths.sum())))
        present |= set(values.tolist())
    best = max(amounts)
    content["first"] = amounts.index(best) if any(best) else len(amounts) // 2
    shown = with_unnamed(segments, present)
    content["classes"] = [{"value": one.value, "name": one.name, "colour": one.colour} for one in shown]
    return content


PAGE = "report.html"
#: Endings of a case's files in the HTML report.
PICTURE, SLICES = "_seg.png", "_slices.json"
#: Maximum slices of all cases together, of about 10 kB each; beyond, each case shows fewer.
SLICES_IN_ALL = 8000
#: Maximum size of a picture in the HTML report, in pixels.
PICTURE_PIXELS = (720, 960)


def require_html_report() -> None:
    """Raise a UsageError if the packages for pictures and HTML reports are not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[figures]'`") from error


def html_report_wanted(asked: bool | None) -> bool:
    """Return whether to write pictures and an HTML report.

    If ``asked`` is None, they are written if the packages are installed; else a note is printed.

    Raises:
        UsageError: if they are requested and the packages are missing.
    """
    if asked is None:
        try:
            require_html_report()
        except UsageError as error:
            print(f"pictures and {PAGE} are not written: {error}")
            return False
    elif asked:
        require_html_report()
    return asked is not False


def write_html_report(report: Report) -> Path:
    """Write ``report.html`` into the report's directory: every case with its measures, notes, picture and slices.

    The file needs neither network nor other files.
    """
    import jinja2  # an extra, needed for HTML reports only

    about = report.as_dict()
    files = {
        ending: {
            name: report.directory / file
            for name, case in report.cases.items()
            for file in case["files"]
            if file.endswith(ending) and (report.directory / file).is_file()
        }
        for ending in (PICTURE, SLICES)
    }
    most = max(1, min(MOST_SLICES, SLICES_IN_ALL // max(1, len(files[SLICES]))))
    classes = dict.fromkeys(name for case in report.cases.values() for name in case.get("volumes_ml", {}))
    segments = {name: _segments(case) for name, case in report.cases.items()}
    legends = {tuple(one) for one in segments.values() if one}
    models = report.models
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    pieces = environment.get_template("page.html").generate(
        cases=dict(sorted(report.cases.items())),
        classes=list(classes),
        pictures={name: _smaller(path) for name, path in files[PICTURE].items()},
        slices={name: read_slices(path, most, segments[name]) for name, path in files[SLICES].items()},
        segments=segments,
        legend=next(iter(legends)) if len(legends) == 1 else (),
        summary=report.summary,
        models=models or [(report.model, [])],
        options=report.options,
        program=about["program"],
        date=about["date"],
    )
    path = report.directory / PAGE
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(pieces)
    return path


def _segments(case: dict[str, Any]) -> list[Segment]:
    """Return the classes of a case's mask; empty if it has none."""
    return segments_of(case.get("model", {}).get("classes") or ["background", *case.get("volumes_ml", {})])


def _smaller(path: Path) -> str:
    from PIL import Image  # comes with the extra for figures

    stream = io.BytesIO()
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail(PICTURE_PIXELS)
        picture.save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode("ascii")
