"""Preparation of raw cases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from kits_unet3d.transforms import Recipe

from ..data import prepare_dataset
from ..errors import UsageError
from ..files import write_json
from . import plain, scans
from .measure import PLAIN, Row, alternating, rows
from .setting import Setting


def raw_cases(setting: Setting) -> Path:
    """The folder of the setting's raw cases in KiTS19's layout, written unless they are there."""
    raw = setting.folder / "raw"
    for number, count in enumerate(setting.slices):
        scans.write_raw(raw / f"case_{number:05d}", (count, setting.plane, setting.plane), (1.0, 0.8, 0.8), number)
    names = [f"case_{number:05d}" for number in range(len(setting.slices))]
    write_json(raw / "dataset.json", {"name": "benchmark", "training": names, "evaluation": []})
    return raw


def prepare_anew(raw: Path, out: Path, recipe: Recipe, workers: int) -> None:
    """Ours, whatever a run before left in ``out``.

    Raises:
        UsageError: if a case fails.
    """
    shutil.rmtree(out, ignore_errors=True)
    failed = prepare_dataset(raw, out, recipe, workers)
    if failed:
        raise UsageError(f"{raw}: {failed}")


def prepare(setting: Setting) -> Iterator[Row]:
    """Raw cases to prepared ones; two at a time in ours."""
    raw, out = raw_cases(setting), setting.folder / "out"
    contenders = {
        PLAIN: lambda: plain.prepare(raw, out / "plain", setting.recipe),
        "ours": lambda: prepare_anew(raw, out / "ours", setting.recipe, 2),
    }
    yield from rows(
        "prepare",
        alternating(contenders, setting.slow, warm=False),
        {"ours": 0.25},
        {"cases": len(setting.slices)},
    )
