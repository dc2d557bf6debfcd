"""Limits of containers and batch systems on memory and processors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import INFERRING

from kits_unet3d.pipeline.runtime.memory import container_bytes, cpu_share

PREDICTOR = """
from kits_unet3d.pipeline.inference import Predictor
from kits_unet3d.pipeline.runtime.files import write_json
write_json("out/summary.json", {"device": Predictor("model.pt", "cpu").accelerator.describe()})
"""


def limits(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_cached_files_do_not_count_as_memory_of_a_container(tmp_path):
    two = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 200\ninactive_file 600\n"}
    one = {
        "memory/memory.limit_in_bytes": "1000\n",
        "memory/memory.usage_in_bytes": "900\n",
        "memory/memory.stat": "cache 1\ntotal_inactive_file 500\n",
    }
    assert container_bytes(limits(tmp_path / "two", two)) == 700
    assert container_bytes(limits(tmp_path / "one", one)) == 600
    assert container_bytes(limits(tmp_path / "none", {**two, "memory.max": "max\n"})) == float("inf")


def test_the_limits_of_a_batch_systems_job_count_too(tmp_path):
    """The job's own group has no limit; the one above it has."""
    (tmp_path / "groups").write_text("5:cpu,cpuacct:/slurm/job_1\n4:memory:/slurm/job_1/step_0\n0::/jobs/1\n")
    files = {
        "jobs/memory.max": "1000\n",
        "jobs/memory.current": "900\n",
        "jobs/memory.stat": "inactive_file 100\n",
        "jobs/1/memory.max": "max\n",
        "cpu/slurm/job_1/cpu.cfs_quota_us": "200000\n",
        "cpu/slurm/job_1/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    root = limits(tmp_path / "cgroup", files)
    assert container_bytes(root, tmp_path / "groups") == 200
    assert cpu_share(root, tmp_path / "groups") == 2


def test_a_containers_share_of_the_cpu_is_known(tmp_path):
    assert cpu_share(limits(tmp_path / "two", {"cpu.max": "150000 100000\n"})) == 1.5
    assert cpu_share(limits(tmp_path / "open", {"cpu.max": "max 100000\n"})) == float("inf")
    old = {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_share(limits(tmp_path / "one", old)) == 4 and cpu_share(tmp_path) == float("inf")


@pytest.mark.parametrize("program", [["-c", PREDICTOR], pytest.param(INFERRING, marks=pytest.mark.slow)])
def test_a_predictor_and_the_bundle_use_a_containers_share(tmp_path, scans, program):
    place = limits(tmp_path / "cgroup", {"cpu.max": "100000 100000\n"})
    inside = ["unshare", "-m", "bash", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(place)]
    if os.cpu_count() == 1 or not shutil.which("unshare") or subprocess.run([*inside, "true"]).returncode:
        pytest.skip("needs two processors, and the right to mount the limits of a container")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([*inside, sys.executable, *program], env=environment, check=True, capture_output=True)
    assert json.loads(Path("out/summary.json").read_text())["device"]["threads"] == 1
