"""The script that proves the oldest and the newest versions, as far as it runs without installing them."""

import os
import subprocess

import pytest
from conftest import ROOT

from kits_unet3d.pipeline.device import TESTED


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "usage: bash scripts/check_versions.sh oldest|newest"),
        (["old"], {}, "usage: bash scripts/check_versions.sh oldest|newest"),
        (["oldest"], {"BASE_PYTHON": "no-such-python"}, "error: no-such-python with venv was not found"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, variables, message, tmp_path):
    command = ["bash", "scripts/check_versions.sh", *arguments]
    environment = {**os.environ, "WORK": str(tmp_path / "work"), **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()


def test_the_oldest_set_is_the_floor_of_the_requirements():
    pins = dict(line.split("==") for line in (ROOT / "constraints-mlu370.txt").read_text().splitlines() if "==" in line)
    required = (ROOT / "setup.cfg").read_text()
    assert f"monai>={pins['monai']},<2" in required and pins["monai"] == TESTED[0][2]
    assert f"torch>={TESTED[0][0]}" in required and pins["torch"].startswith(TESTED[0][0])
    assert pins["numpy"].startswith("1.26.")
