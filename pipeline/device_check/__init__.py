"""Check that a device and a CPU compute the same, on the user's hardware. Run by ``kits-unet3d device``."""

from .checks import Check, gathered, run_checks
from .detours import Detours
from .workload import Workload

__all__ = ["Check", "Detours", "Workload", "gathered", "run_checks"]
