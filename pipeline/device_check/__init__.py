"""Describe a device, and check that it computes the same as a CPU. Run by ``kits-unet3d device``."""

from .cards import describe_card
from .checks import Check, gathered, run_checks
from .detours import Detours
from .workload import Workload

__all__ = ["Check", "Detours", "Workload", "describe_card", "gathered", "run_checks"]
