"""Download published weights: resumable, verified before anything reads them, converted once."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from ..download.fetch import Patience, fetch
from ..runtime.errors import CaseError, UsageError
from ..runtime.files import file_hash, writing_into
from .conversion import convert, require_safetensors
from .registry import PublishedWeights, description_beside

#: Environment variable with the address of a mirror's directory, which keeps the files' names.
MIRROR = "KITS_UNET3D_WEIGHTS_URL"


def download_weights(
    published: PublishedWeights,
    url: str | None = None,
    offline: bool = False,
    patience: Patience | None = None,
    directory: str | Path | None = None,
) -> Path:
    """Return the path of the converted weights; download and convert them if they are not at hand.

    Args:
        published: the weights.
        url: address of the file on a mirror; by default below ``$KITS_UNET3D_WEIGHTS_URL``, or the publisher's.
        offline: never use the network.
        patience: timeout and retries.
        directory: directory for the weights, which only an explicit path finds; by default that of all weights.

    Raises:
        UsageError: if ``offline`` is set and the weights are not at hand.
        CaseError: if no server sends the published file.
        CheckpointError: if the file cannot be used.
    """
    target = published.path if directory is None else Path(directory) / published.path.name
    if is_whole(target):
        return target
    require_safetensors()  # before the download
    beside = target.with_suffix(".json")
    if directory is not None and beside.exists() and description_beside(target).get("name") != published.name:
        raise UsageError(f"{beside}: exists already and does not describe these weights; choose another directory")
    file = target.parent / published.file
    at_hand = file.is_file() and file_hash(file, "md5") == published.md5
    if offline and not at_hand:
        raise UsageError(
            f"{published.name}: not in {target.parent}; run `kits-unet3d weights download {published.name}` "
            f"where there is a network, or copy the file here and run `kits-unet3d weights add {published.file}`"
        )
    mirror = os.environ.get(MIRROR)
    address = url or (f"{mirror.rstrip('/')}/{published.file}" if mirror else published.url)

    def require_published(received: Path) -> None:
        found = file_hash(received, "md5")
        if found != published.md5:
            raise CaseError(f"{published.file}: its MD5 is {found}, not the published {published.md5}")

    if not at_hand:
        fetch(address, file, patience or Patience(), threading.Event(), check=require_published)
    with writing_into(file.parent):
        convert(file, target, published)
    if not at_hand or directory is None:  # a file that the user put elsewhere stays
        file.unlink()  # the converted weights replace it
    return target


def is_whole(path: Path) -> bool:
    """Return True if converted weights are those that their description was written for."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return path.is_file() and about["sha256"] == file_hash(path)
    except (OSError, ValueError, TypeError, KeyError):
        return False
