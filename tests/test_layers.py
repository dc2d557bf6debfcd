"""The two rules that keep the rooms apart, checked by reading the source."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import BELOW, OVERLAYS, ROOT

ROOMS = ("transforms", "networks", "pipeline")
#: Also as parts of others: torch_mlu, is_cuda, MLU_VISIBLE_DEVICES.
DEVICE_WORDS = re.compile(r"cuda|mlu|cncl|nccl|torch\.backends", re.IGNORECASE)
#: Which rooms each room may import; its own is always allowed.
ALLOWED = {"transforms": set(), "networks": set(), "pipeline": {"transforms", "networks"}}
#: The file that reads checkpoints needs the room of networks, but no network's name.
FORBIDDEN_NAMES = {"UNet3D"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of all modules a file imports, relative ones resolved."""
    package = ["kits_unet3d", *path.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            names |= {".".join([*module, alias.name]) for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room):
    assert sources(room)
    for path in sources(room):
        for name in imported(path):
            parts = name.split(".")
            assert parts[0] not in (*ROOMS, "bundle", "scripts", "tests"), f"{path}: {name}"
            if parts[0] == "kits_unet3d" and len(parts) > 1 and parts[1] != room:
                assert parts[1] in ALLOWED[room], f"{path} imports {name}"


def test_networks_need_torch_alone():
    for path in sources("networks"):
        outside = {name.split(".")[0] for name in imported(path)} - {"kits_unet3d", "torch", "__future__"}
        # safetensors is an extra, imported only to read such a file
        standard = {"codecs", "collections", "contextlib", "hashlib", "itertools", "os", "pathlib", "pickle", "re"}
        standard |= {"numbers", "typing", "zipfile"}
        assert outside <= standard | {"safetensors"}, f"{path}: {outside}"


def test_the_pipeline_names_no_network_of_ours():
    for path in sources("pipeline"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & FORBIDDEN_NAMES, path


def test_one_file_knows_the_kinds_of_devices():
    """Code, comments, pages and data alike."""
    knowing = ROOT / "pipeline" / "device.py"
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*")) if path.is_file()]
    assert {".py", ".js", ".html", ".json"} <= {path.suffix for path in files}
    for path in [*files, ROOT / "setup.cfg"]:
        if path != knowing and path.suffix != ".pyc":
            found = DEVICE_WORDS.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found.group(0)}"


def test_no_other_file_asks_whether_it_runs_on_a_cpu():
    """What depends on that asks the accelerator."""
    for path in (path for room in ROOMS for path in sources(room) if path != ROOT / "pipeline" / "device.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            found = [part.value for part in compared if isinstance(part, ast.Constant) and part.value == "cpu"]
            assert not found, f"{path}:{node.lineno} compares with {found}"


def test_no_configuration_names_a_device():
    configs = sorted((ROOT / "bundle" / "configs").glob("*"))
    assert configs
    for path in configs:
        found = DEVICE_WORDS.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found.group(0)}"


def test_every_top_level_key_of_a_configuration_is_read():
    """An overlay may only set what it or the configuration below it reads."""
    directory = ROOT / "bundle" / "configs"
    read_by_monai = {
        "imports", "bundle_root", "initialize", "run", "training", "inferring", "evaluating", "benchmarking",
        "device", "network_def", "dataset_dir",
    }  # fmt: skip
    overlays = {f"{name}.json": ["train.json", *(f"{one}.json" for one in BELOW.get(name, []))] for name in OVERLAYS}
    for path in sorted(directory.glob("*.json")):
        if path.name == "metadata.json":
            continue
        keys = {re.split("#|::", key.lstrip("+"))[0] for key in json.loads(path.read_text())}
        below = overlays.get(path.name, ())
        text = "".join((directory / name).read_text() for name in (path.name, *below))
        unread = {key for key in keys - read_by_monai if not re.search(rf"[@%]{key}\b", text)}
        unread -= {"train", "validate", "evaluator"}  # whose entries the next test looks at
        assert not unread, f"{path.name}: {unread}"


def test_every_part_of_a_training_is_read_and_every_import_used():
    directory = ROOT / "bundle" / "configs"
    train = json.loads((directory / "train.json").read_text())
    text = json.dumps(train)
    read_by_monai = {"train": {"trainer"}, "validate": set()}  # properties that MONAI looks up by themselves
    for group, known in read_by_monai.items():
        unread = {part for part in train[group].keys() - known if f"@{group}#{part}" not in text}
        assert not unread, f"{group}: {unread}"
    for path in sorted(directory.glob("*.json")):
        content = json.loads(path.read_text())
        lines = content.get("imports", []) + content.get("+imports", [])
        names = [line.removeprefix("$import ").split(" as ")[-1] for line in lines]
        unused = [name for name in names if not re.search(rf"\b{name}\.", json.dumps(content))]
        assert not unused, f"{path.name}: {unused}"
