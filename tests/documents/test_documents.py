"""The commands in the documents, run as they stand there: a directory is made in which ``path/to/…`` is real.

What cannot run here is marked in the document, where no reader sees it, with a line ``<!-- not run: reason -->`` above.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, TINY

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "bundle/docs/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>bash|python)\n(?P<code>.*?)^```", re.M | re.S
)
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
#: Code in a sentence or a table that a reader would copy as it stands: a program with an option.
COMMAND = re.compile(r"(?:python|kits-unet3d|torchrun|pip|bash|docker|curl)\s[^`]*?(?<=\s)--?[a-z]")
#: Such as may stand there without being run, and why.
NOT_RUN = {
    "pip install -e '.[onnx]'": "installs into the environment; the tests' own has that extra",
    "kits-unet3d device --accelerators N": "wants a number, and as many cards",
    "kits-unet3d device --device npu": "of a device that a reader is about to add",
}
#: What a training here may take: the bundle's configurations are cut down to it.
SMALL = {
    **TINY,
    "channels": [4, 8, 8],
    "workers": 0,
    "learning_rate": 0.05,
    "warmup_epochs": 1,
    "epochs": 1,
    "first_evaluation": 1,
    "evaluate_every": 1,
    "quality_threshold": 1.1,
}


class Block(NamedTuple):
    document: str
    number: int
    reason: str | None
    language: str
    code: str


def blocks(document: str) -> list[Block]:
    found = BLOCK.finditer((ROOT / document).read_text(encoding="utf-8"))
    return [
        Block(document, n, match["reason"], match["language"], match["code"]) for n, match in enumerate(found, start=1)
    ]


ALL = [block for document in DOCUMENTS for block in blocks(document)]
RUN = [block for block in ALL if block.reason is None]


@pytest.fixture
def place(tmp_path, raw_phantoms, preprocessed_phantoms, tiny_checkpoint) -> Path:
    """A directory that looks like the repository with a reader's files in it."""
    directory = tmp_path / "reader"
    shutil.copytree(ROOT / "bundle", directory / "bundle", ignore=shutil.ignore_patterns("*.pt", "eval"))
    for name in ("train", "demo", "dynunet_ds_cpu"):
        config = directory / "bundle" / "configs" / f"{name}.json"
        known = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
        content = json.loads(config.read_text()) if name == "train" else {}
        config.write_text(json.dumps(content | {key: value for key, value in SMALL.items() if key in known}, indent=4))
    files = directory / "path" / "to"
    for source, name in (
        (raw_phantoms / "case_00000" / "imaging.nii.gz", "scan.nii.gz"),
        (raw_phantoms / "case_00000" / "segmentation.nii.gz", "kits19/data/scan.nii.gz"),
        (raw_phantoms / "case_00001" / "imaging.nii.gz", "directory/scan.nii.gz"),
        (tiny_checkpoint, "model.pt"),
        (tiny_checkpoint, "bundle/models/model.pt"),
    ):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, files / name)
    shutil.copytree(raw_phantoms, files / "kits19" / "data", dirs_exist_ok=True)
    shutil.copytree(raw_phantoms, files / "raw")
    shutil.copytree(preprocessed_phantoms, files / "preprocessed")
    shutil.copytree(directory / "bundle" / "configs", files / "bundle" / "configs")
    (directory / "bundle" / "path").symlink_to(directory / "path")  # the bundle's own document stands in its directory
    (directory / "kits_unet3d").symlink_to(directory / "bundle")
    commands = directory / "commands"
    commands.mkdir()
    for name, starts in (
        ("python", "exec '{python}' \"$@\""),
        ("kits-unet3d", "exec '{python}' -m kits_unet3d.pipeline.cli \"$@\""),
        ("torchrun", "exec '{python}' -m torch.distributed.run \"$@\""),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{starts.format(python=sys.executable)}\n")
        (commands / name).chmod(0o755)
    return directory


def test_every_block_is_run_or_says_why_not():
    assert len(RUN) >= 12
    reasons = {block.reason for block in ALL} - {None}
    assert all(len(reason) > 10 for reason in reasons)
    for document in DOCUMENTS:  # no mark is left without its block
        text = (ROOT / document).read_text(encoding="utf-8")
        assert len(re.findall("^<!-- not run:", text, re.M)) == sum(
            block.reason is not None for block in blocks(document)
        ), document


def test_no_command_hides_in_a_table_or_in_a_sentence():
    found = set()
    for document in [*DOCUMENTS, "README.zh-CN.md"]:
        prose = FENCED.sub("", (ROOT / document).read_text(encoding="utf-8"))
        commands = {code for code in re.findall(r"`([^`]+)`", prose) if COMMAND.match(code)}
        hidden = {code for code in commands if "…" not in code} - NOT_RUN.keys()  # "…" is to be filled in
        assert not hidden, f"{document}: {hidden}"
        found |= commands
    assert found >= NOT_RUN.keys()


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted({block.document for block in RUN}))
def test_the_commands_of_a_document_run_one_after_the_other(document, place):
    path = [str(place / "commands"), os.environ["PATH"], str(Path(sys.executable).parent)]
    variables = {**os.environ, "PATH": os.pathsep.join(path)}
    variables.pop("PYTORCH_TRAIN_DATASET", None)
    directory = place / "bundle" if document.startswith("bundle") else place
    if any("phantom " in block.code and "-o path/to/raw " in block.code for block in blocks(document)):
        for name in ("raw", "preprocessed"):  # the document makes its own, which are not mixed with other cases
            shutil.rmtree(place / "path" / "to" / name)
    for block in blocks(document):
        if block.reason is not None:
            continue
        code = block.code.replace("file:///path/to", f"file://{place}/path/to")
        line = ["bash", "-euo", "pipefail", "-c", code] if block.language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(
            line, cwd=directory, env=variables, capture_output=True, text=True, timeout=500

        )  # fmt: skip
        assert done.returncode == 0, f"{document}, block {block.number}:\n{code}\n{done.stdout}\n{done.stderr[-4000:]}"
