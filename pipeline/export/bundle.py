"""Export a checkpoint and the repository's bundle as one zip that any MONAI program can use."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from ..runtime.errors import UsageError
from ..runtime.files import file_hash, part_directory, write_json
from ..training.checkpoint import save
from .archive import pack
from .description import Description, filled
from .formats import export_onnx, export_torchscript

logger = logging.getLogger("kits_unet3d.export")

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
    """Return the content of ``model.pt``: the weights twice by name (once in the file) and their description.

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
        "configuration": {"dataset": next(iter(described.model.datasets), None)},
    }
