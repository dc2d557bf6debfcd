"""From what a user names to a list of scans: files, folders, globs, lists, DICOM series."""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UsageError
from .dicom import DicomFolder, is_dicom, read_slice, sort_series
from .options import ReadOptions

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
LISTS = (".txt", ".csv")
#: Columns of a CSV list that hold the scans; the first column otherwise.
COLUMNS = ("scan", "image", "path", "file")


@dataclass(frozen=True)
class Found:
    """One scan that is still to be read.

    Attributes:
        path: of its file, or the folder of its DICOM series.
        name: of its results below the output folder, with ``/`` between folders.
        dicom: what is known of that folder.
        series: the label of the series in it, where all are wanted.
    """

    path: Path
    name: str
    dicom: DicomFolder | None = None
    series: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def identity(self) -> frozenset[str]:
        """Words that name the patient, as far as tags tell."""
        return self.dicom.identity if self.dicom else frozenset()


def ending_of(path: Path) -> str:
    """The ending by which an image's format is known, in lower case; empty if it is none of ours."""
    return next((ending for ending in (*NIFTI, *ITK) if path.name.lower().endswith(ending)), "")


def scan_name(path: Path) -> str:
    """File name without the endings of images; the folder's for KiTS19's ``case_00000/imaging.nii.gz``."""
    path = path.absolute() if path.name not in ("", "..") else path.resolve()
    name = path.name[: len(path.name) - len(ending_of(path))]
    return path.parent.name if name == "imaging" else name


def find_scans(
    given: str | Path | Iterable[str | Path], options: ReadOptions | None = None, skipped: dict[str, str] | None = None
) -> list[Found]:
    """The scans that ``given`` names, each once, in a lasting order, with names that differ.

    Args:
        given: files, folders (searched to the bottom; masks ``*_seg`` and hidden files are passed over),
            globs, and lists (``.txt`` with a path a line, ``.csv`` with a column ``scan``, ``image``,
            ``path`` or ``file``, or the paths first; relative to the list's folder or the current one).
        options: ``series="all"`` makes a scan of every series in a DICOM folder.
        skipped: gets a reason for whatever looks like a scan and is left out.

    Raises:
        UsageError: if something named is not there, or there is no scan.
    """
    options, skipped = options or ReadOptions(), {} if skipped is None else skipped
    named = [given] if isinstance(given, str | Path) else list(given)
    found: dict[tuple[Path, str | None], Found] = {}
    for one in named:
        for scan in _expand(one, options, skipped):
            key = (Path(os.path.realpath(scan.path)), scan.series)
            if key in found:
                skipped[str(scan.path)] = "the same scan is named twice"
            found.setdefault(key, scan)
    if not found:
        reasons = "".join(f"; {path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise UsageError(
            f"{', '.join(map(str, named))}: holds neither {', '.join((*NIFTI, *ITK))} files nor a DICOM series{reasons}"
        )
    return _distinct(list(found.values()))


def _expand(given: str | Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    path = Path(given)
    if path.is_dir() and not ending_of(path):
        yield from _folder(path, options, skipped)
    elif path.exists() or path.is_symlink():
        if path.suffix.lower() in LISTS:
            yield from _list(path, options, skipped)
        elif not ending_of(path) and path.is_file() and is_dicom(path):
            yield from _dicom([path], path.parent, options, skipped)
        else:
            yield Found(path, scan_name(path))
    elif glob.has_magic(str(path)) and (matches := sorted(glob.glob(str(path), recursive=True))):
        for match in matches:
            if Path(match).is_dir() or not _is_result(Path(match)):
                yield from _expand(match, options, skipped)
    else:
        raise UsageError(f"{path}: no such file or folder")


def _is_result(path: Path) -> bool:
    """Hidden, as unfinished files are, or a mask, ours or KiTS19's."""
    name = path.name[: len(path.name) - len(ending_of(path))]
    return path.name.startswith(".") or name.endswith("_seg") or name == "segmentation"


def _folder(top: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    dicom, files = [], []
    for path in _walk(top, skipped):
        if ending_of(path):
            if not _is_result(path):
                files.append(path)
        elif is_dicom(path):
            dicom.append(path)
    for path in files:
        parts = path.relative_to(top).parts[:-1]
        name = scan_name(path)
        # KiTS19's case_00000/imaging.nii.gz is named by its folder, which is then no folder of the results.
        if parts and parts[-1] == name and path.name.startswith("imaging"):
            parts = parts[:-1]
        yield Found(path, "/".join((*parts, name)))
    yield from _dicom(dicom, top, options, skipped)


def _walk(top: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """All files below ``top``; links are followed, but into no folder twice."""
    seen = {os.path.realpath(path) for path in (top, *top.absolute().parents)}
    for folder, folders, files in os.walk(top, followlinks=True, onerror=lambda e: _note(skipped, e)):
        for name in sorted(folders):
            path, real = os.path.join(folder, name), os.path.realpath(os.path.join(folder, name))
            if real in seen:
                skipped[path] = "a link back into what was searched already"
                folders.remove(name)
            elif name.startswith("."):
                folders.remove(name)
            elif ending_of(Path(name)):
                skipped[path] = "is a folder with the name of a file; what is in it was searched"
            seen.add(real)
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_symlink() and not file.exists():
                skipped[str(file)] = "a link to nothing, or to itself"
            else:
                yield file


def _note(skipped: dict[str, str], error: OSError) -> None:
    skipped[str(error.filename)] = f"cannot be opened ({error.strerror})"


def _dicom(files: list[Path], top: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    folders = sort_series((read_slice(path) for path in files), top)
    some = any(folder.series or folder.damaged for folder in folders)
    for folder in folders:
        inside = folder.path.relative_to(top).parts
        name = "/".join(inside) or scan_name(top)
        if some and not folder.series and not folder.damaged:
            skipped[str(folder.path)] = "no CT: " + ", ".join(f"{count} {kind}" for kind, count in folder.left_out)
        elif options.series == "all" and len(folder.series) > 1:
            for series in folder.series:
                yield Found(folder.path, f"{name}_series{series.label}", folder, series.label)
        else:
            yield Found(folder.path, name, folder)


def _list(path: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no usable list ({error})") from error
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(entries) if row]
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        column = next((header.index(name) for name in COLUMNS if name in header), None)
        entries = [row[column or 0].strip() for row in rows[column is not None :] if len(row) > (column or 0)]
    for entry in entries:
        near = path.parent / entry
        place = near if near.exists() or not Path(entry).exists() else Path(entry)
        # What is missing fails as a case of its own, so that the others of the list are still done.
        yield from [Found(place, scan_name(place))] if not place.exists() else _expand(place, options, skipped)


def _distinct(scans: list[Found]) -> list[Found]:
    """Names that differ: with the folders that tell them apart, and at last with the ending."""
    counts = Counter(scan.name for scan in scans)
    if max(counts.values()) > 1:
        common = os.path.commonpath([scan.path.absolute().parent for scan in scans])
        scans = [
            replace(scan, name="/".join((*_below(scan.path, common), scan.name.split("/")[-1])))
            if counts[scan.name] > 1
            else scan
            for scan in scans
        ]
        counts = Counter(scan.name for scan in scans)
        scans = [replace(s, name=s.name + ending_of(s.path)) if counts[s.name] > 1 else s for s in scans]
    return scans


def _below(path: Path, common: str) -> tuple[str, ...]:
    parts = path.absolute().parent.relative_to(common).parts
    return parts[:-1] if path.name.startswith("imaging") else parts
