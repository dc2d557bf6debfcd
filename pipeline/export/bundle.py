"""Write a trained model as a MONAI bundle, and pack and unpack its zip."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from ..runtime.errors import UsageError
from ..runtime.files import file_hash, part_directory, whole_file, write_json
from ..training.checkpoint import save
from .description import Description, filled
from .formats import export_onnx, export_torchscript

logger = logging.getLogger("kits_unet3d.export")
MANIFEST = "manifest.json"
#: Limits that no bundle of this network reaches; a larger zip is rejected.
MOST_FILES, MOST_BYTES = 200, 4 << 30
#: Earliest time that a zip can store; a fixed time makes the bytes depend on the content alone.
EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(directory: str | Path, archive: str | Path) -> Path:
    """Pack ``directory`` as the one top directory of a zip, with a manifest of each file's bytes and sha256."""
    directory, archive = Path(directory), Path(archive)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    manifest = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in files
    }
    write_json(directory / MANIFEST, {"version": 1, "files": manifest})
    with whole_file(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in [*files, directory / MANIFEST]:
            entry = zipfile.ZipInfo(f"{directory.name}/{path.relative_to(directory).as_posix()}", EPOCH)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            # weights hardly compress
            entry.compress_type = zipfile.ZIP_STORED if path.parent.name == "models" else zipfile.ZIP_DEFLATED
            with packed.open(entry, "w", force_zip64=True) as target, open(path, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
    return archive


def unpack(archive: str | Path, directory: str | Path) -> Path:
    """Unpack a zip made by :func:`pack` into ``directory``; return the bundle's directory in it.

    Files are only written, never run. Everything appears at once, after all hashes matched.

    Raises:
        UsageError: if the file is not such a zip, or the bundle's directory exists already. Also if an entry is not
            in the manifest, differs from it, leaves the directory, or is a link.
    """
    archive, directory = Path(archive), Path(directory)
    try:
        with zipfile.ZipFile(archive) as packed:
            members, top = _members(packed)
            target = directory / top
            if target.exists():
                raise UsageError(f"{target}: exists already; choose another directory, or remove it first")
            listed = _manifest(packed, members)
            with part_directory(target) as temporary:
                for name, member in members.items():
                    _extract(packed, member, temporary / top / name, listed.get(name))
                os.replace(temporary / top, target)
    except UsageError as error:
        raise UsageError(f"{archive}: not unpacked: {error}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{archive}: cannot be unpacked ({error}); download or copy it again") from error
    logger.warning("%s: its configurations are code, which MONAI runs; use them only if you trust their author", target)
    return target


def _members(packed: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """Return the files by path below the one top directory, and that directory's name."""
    members: dict[str, zipfile.ZipInfo] = {}
    tops: set[str] = set()
    if len(packed.infolist()) > MOST_FILES:
        raise UsageError(f"it contains more than {MOST_FILES} files")
    for member in packed.infolist():
        parts = PurePosixPath(member.filename).parts
        # zipfile turns \ into / on Windows only, where it separates directories
        if member.filename.startswith("/") or ".." in parts or "\\" in member.filename or ":" in member.filename:
            raise UsageError(f"it contains the path {member.filename!r}, which leads outside")
        # PurePosixPath drops "." and empty parts: two names could mean one file, or no file at all
        if not {"", "."}.isdisjoint(member.filename.removesuffix("/").split("/")):
            raise UsageError(f"it contains the path {member.filename!r} with an empty part")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UsageError(f"{member.filename} is a link or a device")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(
                f"{member.filename} uses a compression method that `kits-unet3d export bundle` does not use"
            )
        if member.is_dir():
            continue
        tops.add(parts[0])
        name = "/".join(parts[1:])
        if len(parts) < 2 or name in members:
            raise UsageError(f"{member.filename} is outside the bundle's directory, or occurs twice")
        members[name] = member
    if len(tops) != 1 or MANIFEST not in members:
        raise UsageError(f"it is not one directory with a {MANIFEST}; make it with `kits-unet3d export bundle`")
    return members, tops.pop()


def _manifest(packed: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """Return the manifest's files after a check that it lists exactly the files of the zip."""
    if members[MANIFEST].file_size > 1 << 20:
        raise UsageError(f"its {MANIFEST} is too large")
    try:
        listed: dict[str, dict[str, Any]] = {
            str(name): {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for name, entry in json.loads(packed.read(members[MANIFEST]))["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"its {MANIFEST} is not usable ({error})") from error
    different = sorted(set(listed) ^ (set(members) - {MANIFEST}))
    if different:
        raise UsageError(f"{different[0]} is in the zip or in its {MANIFEST}, but not in both")
    # Check each size: a negative one would lower the sum and make its read unlimited.
    negative = next((name for name, entry in listed.items() if entry["bytes"] < 0), None)
    if negative is not None:
        raise UsageError(f"its {MANIFEST} lists {negative} with {listed[negative]['bytes']} bytes")
    if sum(entry["bytes"] for entry in listed.values()) > MOST_BYTES:
        raise UsageError(f"it contains more than {MOST_BYTES >> 30} GiB")
    return listed


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, listed: dict[str, Any] | None) -> None:
    """Extract one file, and reject it if it differs from its entry in the manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    most = member.file_size if listed is None else listed["bytes"]
    with packed.open(member) as source, open(path, "xb") as target:
        while block := source.read(min(1 << 20, most - target.tell() + 1)):
            target.write(block)
            if target.tell() > most:
                raise UsageError(f"{member.filename} is longer than its {MANIFEST} lists")
    if listed is not None and (path.stat().st_size, file_hash(path)) != (listed["bytes"], listed["sha256"]):
        raise UsageError(f"{member.filename} differs from its entry in {MANIFEST}")


#: The directory in the zip, and the bundle's name for MONAI.
NAME = "kits_unet3d"
EXPORTS = {"torchscript": ("model.ts", export_torchscript), "onnx": ("model.onnx", export_onnx)}


def export_bundle(described: Description, archive: str | Path, without: Collection[str] = ()) -> Path:
    """Write the zip of the bundle and return its path.

    It contains configurations that agree with the checkpoint, weights, TorchScript, ONNX, documents, licence, and a
    manifest of SHA-256. An export whose packages are not installed is left out with a warning.

    Args:
        described: model and configurations, from :func:`describe`.
        archive: ``.zip`` to write.
        without: exports to leave out: ``"torchscript"``, ``"onnx"``.

    Raises:
        UsageError: if the bundle's directory lacks a document.
    """
    archive = Path(archive)
    with part_directory(archive) as temporary:
        directory = temporary / NAME
        (directory / "models").mkdir(parents=True)
        _copy_documents(described, directory)
        save(_content(described), directory / "models" / "model.pt")
        for kind, (name, export) in EXPORTS.items():
            if kind not in without:
                try:
                    export(described, directory / "models" / name)
                except UsageError as error:
                    logger.warning("left out: models/%s, since %s", name, error)
        metadata = described.configs["metadata"]
        hashes = {f"models/{path.name}": file_hash(path) for path in sorted((directory / "models").iterdir())}
        configs = {**described.configs, "metadata": {**metadata, "sha256": hashes}}
        for name, content in configs.items():
            write_json(directory / "configs" / f"{name}.json", content)
        return pack(directory, archive)


def _copy_documents(described: Description, directory: Path) -> None:
    source = described.directory
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        if not (source / name).is_file():
            raise UsageError(f"{source / name}: file does not exist; a bundle needs it")
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, directory / name)
    readme = directory / "docs" / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8"), described), encoding="utf-8")


def _content(described: Description) -> dict[str, object]:
    """Return the content of ``model.pt``: the weights under two names (stored once) and their description.

    This project and most readers use them under ``model``. ``monai.bundle.load`` looks for them at the top level, and
    silently loads nothing if they are missing.
    """
    state = described.model.network.state_dict()
    return {
        **state,
        "model": dict(state),
        "network": described.network,
        "preprocessing_parameters": described.model.parameters.as_dict(),
        "best": described.scores,
        "epoch": described.epochs,
        "trained_on": described.data,
        "configuration": {"dataset": next(iter(described.model.datasets), None)},
    }
