"""Write the table, the JSON and the plot of a benchmark."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..device import resolve
from ..runtime.errors import UsageError
from ..runtime.files import whole_file, write_json
from .measure import Row

PACKAGES = ("torch", "monai", "numpy", "nibabel", "openvino", "isal")


def machine() -> dict[str, Any]:
    """Return processor, cores, versions, and the adapter's description of the device."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "versions": versions,
        "device": resolve("cpu").describe(),
    }


def table(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table; goals limit the ratio to the baseline (≤) or the value itself (≥)."""
    lines = ["| what | how | median | ratio to baseline | goal |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        goals = [f"{sign} {goal:.4g}" for sign, goal in (("≤", row.goal), ("≥", row.at_least)) if goal is not None]
        goal = ", ".join([*goals, *["missed"] * row.missed])
        lines.append(f"| {row.what} | {row.how} | {f'{row.value:.4g} {row.unit}'.strip()} | {ratio} | {goal} |")
    return "\n".join(lines)


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the machine and every value as plain data."""
    return {"machine": machine(), "rows": [asdict(row) for row in rows]}


def write_report(rows: Sequence[Row], directory: Path) -> None:
    """Write ``benchmark.json`` with the machine and every value, and ``benchmark.md`` with the table."""
    write_json(directory / "benchmark.json", report(rows))
    with whole_file(directory / "benchmark.md") as temporary:
        temporary.write_text(table(rows) + "\n", encoding="utf-8")


def require_drawing() -> None:
    """Raise a UsageError if matplotlib, which draws the plot, is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("matplotlib is not installed; `pip install 'kits-unet3d[figures]'`") from error


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Plot time and memory against work.

    Raises:
        UsageError: without matplotlib, or if nothing was measured at several amounts of work.
    """
    require_drawing()
    from matplotlib.figure import Figure  # an extra, which only figures need

    series: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        for kind, amount in row.work.items():
            if " by " in row.what:
                series.setdefault((row.what, kind, row.unit), []).append((amount, row.value))
    if not series:
        raise UsageError("nothing was measured at several amounts of work; run `kits-unet3d benchmark memory`")
    figure = Figure(figsize=(4 * len(series), 3.2), layout="constrained")
    for axes, ((what, kind, unit), points) in zip(
        figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True
    ):
        axes.plot(*zip(*sorted(points), strict=True), "o-")
        axes.set(title=what, xlabel=kind, ylabel=unit, ylim=(0, None), xlim=(0, None))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path
