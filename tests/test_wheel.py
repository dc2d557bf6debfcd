"""The wheel: everything in it, nothing beside it, and the command in an environment of its own."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

ROOMS = ("transforms", "networks", "pipeline")


def inside(*endings):
    """Files of the rooms that belong into the wheel, under the names they have there."""
    return {
        f"kits_unet3d/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name.endswith(endings)
    }


def test_every_directory_of_code_is_a_package_of_the_distribution():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    assert listed == {name.rpartition("/")[0].replace("/", ".") for name in inside(".py")}


@pytest.mark.slow
def test_the_wheel_holds_all_code_and_its_command_runs(tmp_path):
    source = tmp_path / "source"  # a copy, since a build leaves its own directories behind and takes up old ones
    source.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == inside(".py", ".json", ".html", ".js", "py.typed")

    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import kits_unet3d.transforms as t; print(t.__file__); t.RandBalancedCropd"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(installed))
    done = subprocess.run(
        [sys.executable, installed / "bin" / "kits-unet3d", "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "export" in done.stdout and "download" in done.stdout
