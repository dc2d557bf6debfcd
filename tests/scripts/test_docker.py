import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments and line breaks taken out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_linter_finds_nothing():
    linter = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if linter is None:
        pytest.skip("hadolint is not installed; it is in the extra `dev`")
    done = subprocess.run([linter, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_base_is_an_argument_and_the_user_is_not_root():
    steps = instructions()
    assert steps[:2] == [("ARG", "BASE=python:3.11-slim"), ("FROM", "${BASE}")]
    assert [rest for name, rest in steps if name == "USER"] == ["10001"]
    # torch's own index has the builds for a CPU; PyPI's are several GB larger.
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in steps
    assert steps.index(("USER", "10001")) > max(i for i, (name, _) in enumerate(steps) if name in ("RUN", "COPY"))
    assert ("VOLUME", '["/data", "/checkpoints"]') in steps
    assert ("ENV", "USER=kits") in steps
    commands = [rest for name, rest in steps if name == "RUN"]
    assert commands[0] == "bash scripts/install.sh figures"
    assert not any(word in command for word in ("pip ", "sudo", "curl") for command in commands)


def copied() -> list[str]:
    """What the image gets of the repository; its top level alone."""
    first, *lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    return [line[1:] for line in lines if line.startswith("!") and "/" not in line]


def test_the_image_gets_the_package_and_nothing_local():
    assert all((ROOT / name).exists() for name in copied())
    assert not {".git", ".venv", "data", "tests"} & set(copied())


def clean_environment(directory: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    return directory


def pretend(environment: Path, name: str, version: str) -> None:
    """A distribution as a base image brings it: what pip knows of it is all that counts here."""
    site = next((environment / "lib").glob("python*")) / "site-packages" / f"{name}-{version}.dist-info"
    site.mkdir()
    (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "RECORD").write_text("")


def install(environment: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    """The Dockerfile's own installing step, in ``environment`` and on a copy of the repository."""
    (step,) = [rest for name, rest in instructions() if name == "RUN" and "install" in rest]
    copy = tmp_path / "copy"
    for path in map(ROOT.joinpath, copied()):
        if path.is_dir():
            shutil.copytree(path, copy / path.name)
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHON", "VIRTUAL_ENV")}
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", " ".join([step, *options])],
        cwd=copy,
        env={**outer, "PATH": path},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_the_torch_of_the_base_image_is_never_replaced(tmp_path):
    environment = clean_environment(tmp_path / "venv")
    pretend(environment, "torch", "2.11.0+vendor")
    pretend(environment, "torch_mlu", "1.33.0")
    done = install(environment, tmp_path, "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "kept unchanged: torch==2.11.0+vendor torch_mlu==1.33.0" in done.stdout
    (would,) = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    assert "monai-1.6.1" in would and not re.search(r" torch(_mlu)?-\d", would)


@pytest.mark.slow
@pytest.mark.parametrize("torch_version", ["2.4.1", "2.4.0+vendor"])
def test_the_torch_of_an_mlu370_image_chooses_its_set_of_versions(tmp_path, torch_version):
    """MONAI demands torch 2.4.1 in its metadata."""
    environment = clean_environment(tmp_path / "venv")
    pretend(environment, "torch", torch_version)
    pretend(environment, "torch_mlu", "1.23.1")
    done = install(environment, tmp_path, "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"kept unchanged: torch=={torch_version} torch_mlu==1.23.1" in done.stdout
    assert "set of versions: constraints-mlu370.txt" in done.stdout
    would = "".join(line for line in done.stdout.splitlines() if line.startswith("Would install"))
    assert "monai-1.5.2" in would and "numpy-1.26.4" in would and "kits-unet3d-" in would and "jinja2" in would.lower()
    assert not re.search(r" torch(_mlu)?-\d", would)


def test_a_torch_that_is_too_old_is_refused_in_one_line(tmp_path):
    environment = clean_environment(tmp_path / "venv")
    pretend(environment, "torch", "2.1.0")
    done = install(environment, tmp_path, "--dry-run")
    assert done.returncode == 2 and "Would install" not in done.stdout
    assert done.stderr.startswith("error: torch 2.1.0 is too old, 2.4.0 is the oldest that works")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_install_step_gives_the_command_with_the_packages_of_the_base(tmp_path):
    environment = clean_environment(tmp_path / "venv")
    site = next((environment / "lib").glob("python*")) / "site-packages"
    (site / "base.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    done = install(environment, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    shown = subprocess.run(
        [str(environment / "bin" / "kits-unet3d"), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "predict" in shown.stdout and (site / "kits_unet3d" / "pipeline" / "device_check").is_dir()
    assert not (site / "torch").exists()


@pytest.mark.slow
def test_on_a_base_with_nothing_but_python_the_pinned_torch_is_installed(tmp_path):
    environment = clean_environment(tmp_path / "venv")
    done = install(environment, tmp_path, "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (pinned,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (would,) = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    assert "kept unchanged" not in done.stdout and f" torch-{pinned}" in would


@pytest.mark.slow
def test_an_unknown_user_can_import_monai_with_the_image_environment():
    rights = "+dac_override,+dac_read_search"  # to read what this interpreter is made of, wherever it lies
    become = ["setpriv", "--reuid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}"]
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to become somebody else")
    (name,) = [rest for name, rest in instructions() if name == "ENV" and rest.startswith("USER=")]
    bare = ["env", "-i", "HOME=/tmp", f"PATH={os.environ['PATH']}"]
    importing = [sys.executable, "-c", "import monai"]
    known, unknown = (
        subprocess.run([*become, *bare, *more, *importing], cwd="/", capture_output=True, text=True, timeout=120)
        for more in ([name], [])
    )
    assert known.returncode == 0, known.stderr
    assert "uid not found: 54321" in unknown.stderr


def run_docker(tmp_path, *command, **variables):
    settings = {"DOCKER": "echo", "DATA": tmp_path / "data", "CHECKPOINTS": tmp_path / "checkpoints", **variables}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "run_docker.sh"), *command],
        env={**os.environ, **{name: str(value) for name, value in settings.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_container_gets_data_checkpoints_and_all_cards(tmp_path):
    devices = tmp_path / "dev"
    devices.mkdir()
    for node in ("cambricon_dev0", "cambricon_dev1", "cambricon_ctl", "cambricon_ipcm0"):
        (devices / node).touch()
    monitor = devices / "cnmon"
    monitor.touch(mode=0o755)
    settings = {"DEVICES": devices, "CNMON": monitor, "IMAGE": "image", "MLU_VISIBLE_DEVICES": "1"}
    shown = run_docker(tmp_path, "kits-unet3d", "device", **settings)
    for node in ("dev0", "dev1", "ctl", "ipcm0"):
        assert f"--device {devices}/cambricon_{node} --group-add" in shown
    assert f"-v {tmp_path}/data:/data -v {tmp_path}/checkpoints:/checkpoints" in shown
    assert f"--user {os.getuid()}:{os.getgid()}" in shown and "-e MLU_VISIBLE_DEVICES=1" in shown
    assert f"-v {monitor}:/usr/bin/cnmon:ro" in shown and "-e ENABLE_FALLBACK_TO_CPU=0" in shown
    assert shown.endswith(" image kits-unet3d device\n")


def test_the_container_gets_what_the_launch_scripts_read(tmp_path):
    shown = run_docker(tmp_path, "bash", "scripts/precheckin.sh", DEVICE="cpu", ACCELERATORS="2", SEED="3")
    assert "-e DEVICE=cpu -e ACCELERATORS=2 -e SEED=3 -e PYTORCH_TRAIN_DATASET= " in shown  # no data: phantoms
    index = tmp_path / "data" / "KiTS19" / "pre_data_dir" / "index.json"
    index.parent.mkdir(parents=True)
    index.touch()
    assert "PYTORCH_TRAIN_DATASET" not in run_docker(tmp_path, DEVICE="cpu")
    index.rename(index.with_name("case_00000_x.npy"))  # as the reference leaves it
    assert "PYTORCH_TRAIN_DATASET" not in run_docker(tmp_path, DEVICE="cpu")


def test_nvidias_cards_are_given_to_the_container(tmp_path):
    shown = run_docker(tmp_path, "kits-unet3d", DEVICES=tmp_path, GPUS="all", CUDA_VISIBLE_DEVICES="1")
    assert " --gpus all " in shown and "-e CUDA_VISIBLE_DEVICES=1" in shown and "--device" not in shown


#: A docker that has the containers in a directory, each a file with the name of its image, and prints its commands.
DOCKER = """#!/usr/bin/env bash
cd "$CONTAINERS" || exit 1
if [ "$1 $2" = "container inspect" ]; then
    cat "${@: -1}"
elif [ "$1" = run ]; then
    while [ "$1" != --name ]; do echo "$1"; shift; done
    echo "${*: -2:1}" >"$2"
    echo "$@"
else
    echo "$@"
fi
"""


def test_a_container_of_a_vendors_image_is_made_once_and_entered_again(tmp_path):
    docker, containers = tmp_path / "docker", tmp_path / "containers"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    containers.mkdir()
    settings = {"DOCKER": docker, "CONTAINERS": containers, "IMAGE_NAME": "vendor/pytorch:tag", "GPUS": ""}
    settings |= {"DATA": "", "CHECKPOINTS": "", "PYTORCH_TRAIN_DATASET": tmp_path / "kits"}
    settings |= {"PYTORCH_TRAIN_CHECKPOINT": tmp_path / "models"}
    made = run_docker(tmp_path, "mine", **settings)
    assert f"-v\n{tmp_path}/kits:/data\n-v\n{tmp_path}/models:/checkpoints\n" in made and "--rm" not in made
    assert f"--name mine -v {ROOT}:/workspace/kits_unet3d -w /workspace/kits_unet3d" in made
    assert made.endswith(
        " -e PYTORCH_TRAIN_DATASET=/data -e PYTORCH_TRAIN_CHECKPOINT=/checkpoints vendor/pytorch:tag bash\n"
    )
    assert run_docker(tmp_path, "mine", **settings) == "exec -it mine bash\n"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run_docker(tmp_path, "mine", **{**settings, "IMAGE_NAME": "another"})
    assert refused.value.returncode == 2
    assert refused.value.stderr == (
        "error: the container mine was made from vendor/pytorch:tag, not from another; choose another name\n"
    )


def test_without_cards_the_container_runs_on_the_cpu(tmp_path):
    shown = run_docker(tmp_path, DEVICES=tmp_path, CNMON=tmp_path / "none", GPUS="")
    assert (
        "--device" not in shown
        and "cnmon" not in shown
        and "--privileged" not in shown
        and shown.endswith(" kits-unet3d\n")
    )
