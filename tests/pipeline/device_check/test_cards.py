"""Known pairs of cards and their software, from the table alone."""

import re

import pytest
import torch
from conftest import ROOT

from kits_unet3d.pipeline.device import KINDS, TESTED, Accelerator, resolve
from kits_unet3d.pipeline.device_check import describe_card
from kits_unet3d.pipeline.device_check.cards import fitting_set, known_pair

PAIRS = KINDS["mlu"].pairs


@pytest.mark.parametrize(
    ("name", "plugin", "torch_version", "known"),
    [
        ("MLU370-X8", "torch_mlu 1.23.1-torch2.4.0", "2.4.0", True),
        ("MLU370-S4", "torch_mlu 1.25.0-torch2.4.1", "2.4.1", True),
        ("MLU370-X8", "torch_mlu 1.34.1-torch2.13.0", "2.13.0", False),
        ("MLU590-M9", "torch_mlu 1.34.1", "2.13.0+cpu", True),
        ("MLU590-M9", "torch_mlu 1.34.1", "2.11.0", False),
        ("MLU590-M9", "torch_mlu 1.23.1", "2.4.0", False),
    ],
)
def test_pairs_of_torch_and_its_package_are_known_by_card(name, plugin, torch_version, known):
    said = known_pair(PAIRS, name, plugin, torch_version)
    assert said.startswith("known for" if known else "NOT known for") and name in said
    assert known or "; known are torch_mlu 1." in said


def test_a_card_that_the_table_lacks_is_called_unknown():
    assert known_pair(PAIRS, "MLU220", "torch_mlu 1.25", "2.4.1") == "no pairs are known for the card MLU220"
    assert known_pair([], "H100", "", "2.13.0") == "torch 2.13.0 brings the device itself"


@pytest.mark.parametrize(
    ("torch_version", "start"),
    [
        ("2.3.1", "none; torch 2.3.1 is older than 2.4"),
        ("2.4.0", "constraints-mlu370.txt with MONAI 1.5.2"),
        ("2.7.1+cpu", "constraints-mlu370.txt"),
        ("2.8.0", "constraints.txt with MONAI 1.6.1"),
        ("2.13.0", "constraints.txt"),
    ],
)
def test_the_versions_that_fit_a_torch_are_named(torch_version, start):
    assert fitting_set(torch_version).startswith(start)


def test_the_sets_of_tested_versions_are_there_with_their_monai():
    for _, file, monai in TESTED:
        assert f"monai=={monai}" in (ROOT / file).read_text().splitlines()


def test_install_sh_chooses_the_sets_of_the_table():
    script = (ROOT / "scripts" / "install.sh").read_text()
    (oldest, file, _), (newer, *_) = TESTED
    assert re.search(rf'older "\$torch" {oldest}\.0; then', script)
    assert re.search(rf'older "\$torch" {newer}\.0; then .*\n +set={file}', script)


def test_a_cpu_has_no_card_but_fitting_versions():
    assert list(describe_card(resolve("cpu"))) == ["tested versions"]


def test_a_gpu_is_described_by_its_vendors_program_and_torch(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.86.15\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {
        "device_count": 2, "get_device_name": "GPU", "is_bf16_supported": True, "mem_get_info": (1 << 33, 1 << 34),
        "memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "can_device_access_peer": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=value, **__: answer)
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    card = describe_card(Accelerator(torch.device("cuda", 0)))
    assert card.pop("tested versions").startswith("constraints")
    assert card == {
        "driver": "570.86.15",
        "libraries": "CUDA 12.1",
        "memory": "16.0 GiB",
        "link": "direct between 0 of 2 pairs of accelerators",
        "torch and its package": f"torch {torch.__version__} brings the device itself",
    }
