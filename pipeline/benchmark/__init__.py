"""How fast everything is, beside what a user would otherwise run, in one go."""

from .measure import Row, alternating, linearity
from .report import write_report
from .run import KINDS, run_benchmark
from .setting import Setting

__all__ = ["KINDS", "Row", "Setting", "alternating", "linearity", "run_benchmark", "write_report"]
