"""A batch's report as one page to look at."""

from __future__ import annotations

import base64
from pathlib import Path

from ...errors import UsageError
from ...files import whole_file
from .report import Report

PAGE = "report.html"


def require_page() -> None:
    """Raises a UsageError if what draws pictures and pages is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[figures]'`") from error


def write_page(report: Report) -> Path:
    """Writes ``report.html`` into the report's folder: every case with its measures, notes and picture.

    One file that needs nothing else, neither network nor the pictures beside it.
    """
    import jinja2  # an extra: only who wants pages needs it

    pictures = {}
    for name, case in report.cases.items():
        for file in case["files"]:
            if file.endswith(".png") and (report.folder / file).is_file():
                pictures[name] = base64.b64encode((report.folder / file).read_bytes()).decode("ascii")
    classes = dict.fromkeys(name for case in report.cases.values() for name in case.get("volumes_ml", {}))
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    text = (
        jinja2.Environment(autoescape=True, trim_blocks=True)
        .from_string(template)
        .render(
            cases=dict(sorted(report.cases.items())), classes=list(classes), pictures=pictures, summary=report.summary
        )
    )
    path = report.folder / PAGE
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
