"""Write a batch's HTML report."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from ..io.segments import COLOURS, segments_of
from ..runtime.errors import UsageError
from ..runtime.files import whole_file
from .summary import Report
from .viewer import MOST_SLICES, read_slices

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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    pieces = environment.get_template("page.html").generate(
        cases=dict(sorted(report.cases.items())),
        classes=list(classes),
        pictures={name: _smaller(path) for name, path in files[PICTURE].items()},
        slices={name: read_slices(path, most) for name, path in files[SLICES].items()},
        segments=segments_of(["background", *classes]),
        colours=[list(bytes.fromhex(colour[1:])) for colour in COLOURS],
        summary=report.summary,
        warning=report.model.get("warning"),
        model=report.model.get("description"),
        options=report.options,
        **{key: report.as_dict()[key] for key in ("program", "date")},
    )
    path = report.directory / PAGE
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(pieces)
    return path


def _smaller(path: Path) -> str:
    from PIL import Image  # comes with the extra for figures

    stream = io.BytesIO()
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail(PICTURE_PIXELS)
        picture.save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode("ascii")
