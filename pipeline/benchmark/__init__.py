"""Measure speed and memory against a baseline of stock parts, in one run."""

from .measure import Row, alternating, linearity
from .report import write_report
from .run import KINDS, run_benchmark
from .setting import Setting

__all__ = ["KINDS", "Row", "Setting", "alternating", "linearity", "run_benchmark", "write_report"]
