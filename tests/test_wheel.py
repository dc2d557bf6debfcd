"""The wheel: everything in it, nothing beside it, and the command in an environment of its own."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest
from conftest import CONFIGS, ROOT

ROOMS = ("transforms", "networks", "pipeline")
BUNDLE = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/README.md"} | {
    f"configs/{path.name}" for path in CONFIGS.iterdir() if path.suffix in (".json", ".conf")
}


def inside(*endings):
    """Files of the rooms that belong into the wheel, under the names they have there."""
    return {
        f"kits_unet3d/{path.relative_to(ROOT).as_posix()}".replace("/pipeline/namespace", "")
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name.endswith(endings)
    }


def test_every_directory_of_code_is_a_package_of_the_distribution():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    assert listed - {"kits_unet3d.bundle"} == {name.rpartition("/")[0].replace("/", ".") for name in inside(".py")}


@pytest.mark.slow
def test_the_wheel_trains_and_exports_in_any_directory(tmp_path, preprocessed_phantoms, tiny_config):
    source = tmp_path / "source"  # a copy, since a build leaves its own directories behind and takes up old ones
    source.mkdir()
    for room in (*ROOMS, "bundle"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "bundle" / "models" / "model.pt").touch()  # weights in a checkout are not part of the wheel
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = inside(".py", ".json", ".html", ".js", "py.typed") | {f"kits_unet3d/bundle/{name}" for name in BUNDLE}
    assert {name for name in names if ".dist-info/" not in name} == wanted

    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import kits_unet3d as k, kits_unet3d.transforms as t; print(t.__file__, k.__version__); t.RandBalancedCropd"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(installed)) and done.stdout.split()[-1] == version("kits-unet3d")
    done = subprocess.run(
        [sys.executable, installed / "bin" / "kits-unet3d", "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "export" in done.stdout and "download" in done.stdout

    def command(*arguments):
        line = [str(argument) for argument in arguments]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    kits = (sys.executable, installed / "bin" / "kits-unet3d")
    files = command(*kits, "configs", "train", tiny_config)
    assert str(installed / "kits_unet3d" / "bundle" / "configs" / "train.json") in files
    data = ("--dataset-dir", preprocessed_phantoms)
    command(*kits, "train", *data, "-o", "trained", "--config", "train", tiny_config, "--set", "device_name=cpu")
    model = tmp_path / "trained" / "models" / "model_final.pt"
    command(*kits, "export", "bundle", "--checkpoint", model, "-o", "b.zip", "--without", "onnx", "torchscript")
    command(*kits, "device", "--device", "cpu", "--patch", "32", "--config", "train", tiny_config)
    command(sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", files, "--dataset_dir",
            preprocessed_phantoms, "--device_name", "cpu", "--epochs", "1")  # fmt: skip
    assert (tmp_path / "b.zip").is_file() and (tmp_path / "models" / "model.pt").is_file()
