"""Compare the measurements of a mask with those of real label maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Source of the ranges: 32 label maps of KiTS19 and 40 of KiTS23 (with their cysts), rounded outwards.
SOURCE = "72 label maps of KiTS19 and KiTS23"
#: Source of the range of cysts, which KiTS19 does not label.
CYSTS = "40 label maps of KiTS23"
#: A scan needs a review below (1 − this) × the lower limit, or above (1 + this) × the upper limit.
MARGIN = 0.25


class Range(NamedTuple):
    """Hold the smallest and the largest value in the label maps."""

    title: str
    unit: str
    low: float
    high: float
    source: str = SOURCE


RANGES = {
    "kidney_and_tumour_ml": Range("kidney with its tumours and cysts", "mL", 234, 1671),
    "kidney_ml": Range("kidney", "mL", 104, 760),
    "tumour_ml": Range("tumour", "mL", 0, 1464),  # a scan without a tumour is plausible
    "cyst_ml": Range("cyst", "mL", 0, 141, CYSTS),
    "kidney_extent_mm": Range("length of the longest kidney with its tumour", "mm", 88, 175),
    "components_over_1_ml": Range("connected components of 1 mL or more", "", 1, 2),
}


def check(values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Compare values with the ranges of the same names.

    Returns:
        For each value its ``name``, ``value``, ``low``, ``high`` and ``source``; ``inside``, whether it is in the
        range; and ``grave``, whether it lies outside by more than a quarter of the nearest limit.
    """
    checks = []
    for name, value in values.items():
        low, high, source = RANGES[name][2:]
        value = round(float(value), 1)
        grave = not low * (1 - MARGIN) <= value <= high * (1 + MARGIN)
        about = {"low": low, "high": high, "source": source, "inside": low <= value <= high, "grave": grave}
        checks.append({"name": name, "value": value, **about})
    return checks


def describe(checked: Mapping[str, Any]) -> str:
    """Return a failed result of :func:`check` as a flag."""
    title, unit, low, high, _ = RANGES[checked["name"]]
    unit = unit and f" {unit}"
    return f"{title} {checked['value']:g}{unit}, outside {low:g} to {high:g}{unit} ({checked['source']})"
