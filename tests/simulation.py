"""The simulated mlu (tests/simulated_mlu) for tests: whether it can be used here, and processes that find it."""

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT

SIMULATION = ROOT / "tests" / "simulated_mlu"
#: Private interfaces of torch that the simulation stands on.
NEEDED = (
    "torch.utils.backend_registration:_setup_privateuseone_for_python_backend",
    "torch._C:_to_dlpack",
    "torch._C:_from_dlpack",
    "torch._C:_ExcludeDispatchKeyGuard",
    "torch._C:DispatchKey.AutocastPrivateUse1",
    "torch.distributed.distributed_c10d:_world",
)


REAL = importlib.util.find_spec("torch_mlu") is not None


def why_not() -> str:
    """Why the simulation cannot be used here; empty if it can."""
    if REAL:
        return "a real torch_mlu is installed"
    for name in NEEDED:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            return f"torch {torch.__version__} has no {name.replace(':', '.')}"
    return ""


MARKS = [
    pytest.mark.slow,  # each journey is a process or two of its own
    pytest.mark.skipif(bool(why_not()), reason=f"no simulated mlu: {why_not()}"),
]


def simulated(reports=None):
    """Environment in which the simulated package can be imported; ``reports`` is a directory for what runs on it."""
    path = os.pathsep.join([str(SIMULATION), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, **({} if reports is None else {"SIMULATED_MLU_REPORT": str(reports)})}


def run(*command, reports=None, **variables):
    command = [sys.executable, *map(str, command)]
    environment = {**os.environ, **simulated(reports), **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def counted(reports: Path, what: str) -> Counter:
    """How often each ``what`` ran, over all processes that reported."""
    files = sorted(reports.glob("*.json"))
    assert files, "no process loaded the simulated device"
    return sum((Counter(json.loads(path.read_text())[what]) for path in files), Counter())


def device_check(config: Path) -> partial:
    """Runs ``kits-unet3d device`` on the simulated device, with the network and patch of ``config``."""
    command = ["-m", "kits_unet3d.pipeline.cli", "device", "--device", "mlu", "--patch", 32]
    return partial(run, *command, "--config", "bundle/configs/train.json", config)
