"""Run the commands of an experiment, and repeat none whose result is finished and was made with the same inputs.

Beside each result a file of settings records the options and the hashes of the files that it was made with.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.files import file_hash, write_json

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, **environment: object) -> None:
    """Run a command in the repository's root; raise a CalledProcessError if it fails."""
    added = {name: str(value) for name, value in environment.items()}
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT, env={**os.environ, **added})


def kits(*arguments: object, **environment: object) -> None:
    """Run `kits-unet3d` with this interpreter."""
    run(sys.executable, "-m", "kits_unet3d.pipeline.cli", *arguments, **environment)


def heading(text: str) -> None:
    print(f"== {text}", flush=True)  # before the output of the next command


def link(name: Path, target: Path) -> None:
    """Make a symbolic link, instead of one or of a directory with that name."""
    if name.is_dir() and not name.is_symlink():
        shutil.rmtree(name)
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to(target.resolve())


def digest(*files: str | Path) -> str:
    """Return a hash of the contents of files, in this order; relative names are the repository's."""
    return hashlib.sha256(" ".join(file_hash(ROOT / file) for file in files).encode()).hexdigest()[:16]


def settle(directory: Path, settings: dict[str, Any]) -> None:
    """Record the settings that a directory is made with; raise a UsageError if they were others."""
    record = directory / "settings.json"
    if not record.is_file():
        write_json(record, settings)
        return
    earlier = json.loads(record.read_text(encoding="utf-8"))
    changed = [name for name in {**earlier, **settings} if earlier.get(name) != settings.get(name)]
    if changed:
        was, now = (", ".join(f"{name} {of.get(name)}" for name in changed) for of in (earlier, settings))
        raise UsageError(f"{directory} was made with {was}, not with {now}; give another OUT, or delete that directory")


def make_directory(directory: Path, result: str, settings: dict[str, Any], step: Callable[[], None]) -> None:
    """Run a step that fills `directory`, `result` last; one that was interrupted starts again.

    Raises:
        UsageError: if the directory was made with other settings. What may have taken hours is not replaced unasked.
    """
    finished = (directory / result).is_file()
    if not finished:
        shutil.rmtree(directory, ignore_errors=True)
    settle(directory, settings)
    if not finished:
        step()


def make_file(result: Path, settings: dict[str, Any], step: Callable[[], None]) -> None:
    """Run a step that writes `result`, unless it did so with the same settings."""
    record = result.with_suffix(".settings.json")
    if result.is_file() and record.is_file() and json.loads(record.read_text(encoding="utf-8")) == settings:
        return
    for path in (record, result):
        path.unlink(missing_ok=True)
    try:
        step()
    except BaseException:
        result.unlink(missing_ok=True)  # such as scores of which some cases failed
        raise
    write_json(record, settings)
