"""Download the cases of KiTS19 or KiTS23 and list their files in a manifest."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.datasets import KITS19, KITS23, MANIFEST, kits23_splits, known_cases
from ..runtime.errors import CaseError, UsageError
from ..runtime.files import file_hash, write_json, writing_into
from .fetch import Patience, fetch, require_whole_gzip

LICENCE = "CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"
#: File of each part of a case, as in the challenges' repositories, and its approximate mean size in bytes.
FILES = {"images": ("imaging.nii.gz", 140e6), "labels": ("segmentation.nii.gz", 0.3e6)}


@dataclass(frozen=True)
class Sources:
    """Hold the base addresses; a mirror keeps the same names below its own.

    Attributes:
        images: directory of ``case_00000.nii.gz``, … (the challenges' data set).
        labels: directory of ``case_00000/segmentation.nii.gz``, … (KiTS19's repository by default).
    """

    images: str = "https://huggingface.co/datasets/neheller/KiTS-Challenge-Imaging/resolve/main/images"
    labels: str = "https://raw.githubusercontent.com/neheller/kits19/master/data"

    def url(self, part: str, case_id: str) -> str:
        if part == "images":
            return f"{self.images.rstrip('/')}/{case_id}.nii.gz"
        return f"{self.labels.rstrip('/')}/{case_id}/{FILES['labels'][0]}"


@dataclass(frozen=True)
class Challenge:
    """Describe a data set that can be downloaded.

    Attributes:
        name: its name.
        cases: identifiers of its labelled cases.
        numbers: these in words.
        citation: source to name.
        sources: its addresses.
    """

    name: str
    cases: Collection[str]
    numbers: str
    citation: str
    sources: Sources


def challenge(name: str = KITS19) -> Challenge:
    """Return the data set of that name.

    Raises:
        UsageError: if the name is neither KiTS19 nor KiTS23, in upper or lower case.
    """
    if name.lower() == KITS19.lower():
        citation = "Heller et al., The KiTS19 Challenge Data, arXiv:1904.00445, 2019"
        return Challenge(KITS19, known_cases(), "0 to 209", citation, Sources())
    if name.lower() == KITS23.lower():
        citation = "Heller et al., The KiTS21 Challenge, arXiv:2307.01984, 2023 (its authors name it for KiTS23)"
        labels = Sources(labels="https://raw.githubusercontent.com/neheller/kits23/main/dataset")
        return Challenge(KITS23, kits23_splits(), "0 to 299 and 400 to 588", citation, labels)
    raise UsageError(f"unknown data set {name!r}; known are kits19 and kits23")


def case_ids(given: Iterable[str], dataset: str = KITS19) -> list[str]:
    """Parse labelled cases named as ``3``, ``case_00003`` or ``0-9``; return them sorted, all by default.

    A range counts the cases that exist, so ``0-588`` is all of KiTS23.

    Raises:
        UsageError: if a name has another form, or the data set lacks its label.
    """
    described, wanted = challenge(dataset), set[str]()
    for text in given:
        found = re.fullmatch(r"(?:case_)?(\d{1,5})(?:-(?:case_)?(\d{1,5}))?", text.strip())
        if found is None:
            raise UsageError(f"{text!r} is not a case; write 3, case_00003 or 0-9")
        first, last = int(found.group(1)), int(found.group(2) or found.group(1))
        numbers = {f"case_{number:05d}" for number in range(first, last + 1)}
        ends = {f"case_{number:05d}" for number in (first, last)}
        if not numbers or not ends <= set(described.cases):
            raise UsageError(f"{text!r}: {described.name}'s labelled cases are {described.numbers}")
        wanted |= numbers & set(described.cases)
    return sorted(wanted or described.cases)


def summary(out: str | Path, cases: Sequence[str], parts: Sequence[str], dataset: str = KITS19) -> str:
    """Summarise the download: its parts, cases, size and licence."""
    described = challenge(dataset)
    size = sum(FILES[part][1] for part in parts) * len(cases)
    return (
        f"{described.name}: {' and '.join(parts)} of {len(cases)} cases, about {size / 1e9:.1f} GB, into {out}\n"
        f"Licence: {LICENCE}\n"
        "  not for commercial use; name the source; share derived works under the same licence\n"
        f"Source to name: {described.citation}"
    )


def download_dataset(
    out: str | Path,
    cases: Sequence[str],
    parts: Sequence[str] = ("images", "labels"),
    sources: Sources | None = None,
    patience: Patience | None = None,
    parallel: int = 3,
    dataset: str = KITS19,
) -> dict[str, str]:
    """Download the files that ``out`` lacks; return the errors by file.

    ``download.json`` lists every file with its address, bytes and SHA-256. A listed file with an unchanged hash is
    not downloaded again. An unlisted file is listed as it is if it is whole.

    Raises:
        UsageError: if the disk is too small, or ``out`` holds another data set or a manifest that cannot be read.
    """
    described = challenge(dataset)
    directory, sources, patience = Path(out), sources or described.sources, patience or Patience()
    if parallel < 1:
        raise UsageError(f"parallel must be at least 1, got {parallel}")
    with writing_into(directory):
        directory.mkdir(parents=True, exist_ok=True)
    manifest = _read_manifest(directory / MANIFEST, described)
    wanted = {f"{case}/{FILES[part][0]}": (part, sources.url(part, case)) for case in cases for part in parts}
    _require_space(directory, [part for name, (part, _) in wanted.items() if not (directory / name).is_file()])
    stop, failed = threading.Event(), {}
    with ThreadPoolExecutor(parallel) as pool:
        waiting = {
            pool.submit(_obtain, url, directory / name, manifest.get(name), patience, stop): name
            for name, (_, url) in wanted.items()
        }
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), desc="download", unit="file"):
                name = waiting[future]
                try:
                    manifest[name] = future.result()
                    _write_manifest(directory / MANIFEST, manifest, described)
                except CaseError as error:
                    manifest.pop(name, None)
                    failed[name] = str(error)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    _write_manifest(directory / MANIFEST, manifest, described)
    return dict(sorted(failed.items()))


def _obtain(
    url: str, path: Path, listed: dict[str, Any] | None, patience: Patience, stop: threading.Event
) -> dict[str, Any]:
    """Download the file unless it is there, and return its entry in the manifest."""
    if path.is_file():
        found = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        if listed is not None and found == {name: listed[name] for name in found}:
            return listed
        if listed is None:
            try:
                require_whole_gzip(path)
                return {"url": None, **found}
            except CaseError:
                pass  # not whole: downloaded like a missing file
    fetch(url, path, patience, stop)
    return {"url": url, "bytes": path.stat().st_size, "sha256": file_hash(path)}


def _require_space(directory: Path, missing: Sequence[str]) -> None:
    needed, free = sum(FILES[part][1] for part in missing), shutil.disk_usage(directory).free
    if needed > free:
        raise UsageError(
            f"{directory}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "name another directory, or fewer cases with --cases"
        )


def _read_manifest(path: Path, described: Challenge) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name = content.get("name", described.name)
        files = {
            str(name): {"url": entry["url"], "bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for name, entry in content["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not a usable manifest ({error}); remove it; complete files are kept") from error
    if name != described.name:  # both name their label maps alike
        raise UsageError(f"{path.parent}: contains {name}; choose another --output-dir for {described.name}")
    return files


def _write_manifest(path: Path, files: dict[str, dict[str, Any]], described: Challenge) -> None:
    content = {"version": 1, "name": described.name, "licence": LICENCE, "citation": described.citation}
    with writing_into(path.parent):
        write_json(path, {**content, "files": dict(sorted(files.items()))})
