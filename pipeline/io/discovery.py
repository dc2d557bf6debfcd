"""Find the scans in files, directories, globs, lists and DICOM series."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.errors import UsageError
from .dicom import DicomDirectory, Slice, is_dicom, read_slice, sort_series
from .scan_files import (
    ITK,
    NIFTI,
    directories_of_results,
    ending_of,
    files_of,
    is_list,
    read_list,
    scan_name,
    stem,
)
from .voxels import ReadOptions

#: Endings of scans that are not supported, and advice on each.
UNREAD = {
    (".hdr", ".img", ".hdr.gz", ".img.gz"): "a scan in two files is not supported; convert the pair to one .nii.gz",
    (".dcm.gz", ".ima.gz"): "compressed DICOM is not supported; decompress it with gunzip",
    (".mgz", ".mgh", ".mnc", ".par"): "this format is not supported; convert it to .nii.gz",
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z"): "an archive is not searched; extract it",
}


#: Directories of label maps beside a data set's images, as in the Medical Segmentation Decathlon and nnU-Net.
LABEL_DIRECTORIES = ("labelsTr", "labelsTs", "labelsVal")
#: Longest name of a result, in bytes: most file systems allow 255, and endings and temporary names need some of them.
LONGEST = 200


@dataclass(frozen=True)
class Found:
    """Describe one scan that has not been read yet.

    Attributes:
        path: its file, or the directory of its DICOM series.
        name: name of its results below the output directory, with ``/`` between directories.
        dicom: content of that directory.
        series: label of its series in that directory, if all series are wanted.
        patient: words that name its patient, from the tags of the files beside it.
        identity: words that name the patients of all files searched, left out or not.
        error: reason why it cannot be read, if already known.
        content, state: hash of its files as they were read, and digest of their state then; empty before.
    """

    path: Path
    name: str
    dicom: DicomDirectory | None = None
    series: str | None = None
    patient: frozenset[str] = frozenset()
    identity: frozenset[str] = frozenset()
    error: str = ""
    content: str = ""
    state: str = ""

    @property
    def files(self) -> list[Path]:
        """Return the files that it is read from; all CT series of a DICOM directory, and damaged slices."""
        if self.dicom is None:
            return files_of(self.path)
        slices = (*self.dicom.damaged, *(one for series in self.dicom.series for one in series.slices))
        return sorted({one.path for one in slices})

    def __str__(self) -> str:
        return str(self.path)


def find_scans(
    given: str | Path | Iterable[str | Path], options: ReadOptions | None = None, skipped: dict[str, str] | None = None
) -> list[Found]:
    """Find the scans in ``given``, each once, in a stable order and under distinct names.

    Args:
        given: files, directories (searched recursively; masks ``*_seg`` and hidden files are skipped),
            globs, and lists (``.txt`` with a path or glob a line, ``.csv`` with a column ``scan``, ``image``,
            ``path`` or ``file``, else the first column; relative to the list's directory or the current one).
        options: ``series="all"`` returns every series of a DICOM directory as a scan.
        skipped: receives a reason for each path that looks like a scan and is left out.

    Raises:
        UsageError: if a path does not exist, or no scan is found.
    """
    options, skipped = options or ReadOptions(), {} if skipped is None else skipped
    named = [given] if isinstance(given, str | Path) else list(given)
    if "" in named:
        raise UsageError("the path of a scan is empty; name a file or a directory")
    found: dict[tuple[Path, str | None, str], Found] = {}
    identity: set[str] = set()
    for one in named:
        for scan in _expand(one, options, skipped):
            identity |= scan.identity
            key = (Path(os.path.realpath(scan.path)), scan.series, scan.error)
            if key in found:
                skipped[str(scan.path)] = "the same scan is named twice"
            found.setdefault(key, scan)
    if not found:
        reasons = "".join(f"; {path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise UsageError(
            f"{', '.join(map(str, named))}: contains no {', '.join((*NIFTI, *ITK))} file and no DICOM series{reasons}"
        )
    return [replace(scan, identity=frozenset(identity)) for scan in _distinct(list(found.values()))]


def _expand(given: str | Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    path = Path(given)
    if path.is_dir() and not ending_of(path):
        yield from _directory(path, options, skipped)
    elif path.exists() or path.is_symlink():
        if is_list(path):
            yield from _list(path, options, skipped)
        elif not ending_of(path) and path.is_file() and is_dicom(path):
            yield from _dicom([read_slice(path)], path.parent, options, skipped)
        else:
            yield Found(path, scan_name(path))
    elif matches := _matches(path, skipped):
        for match in matches:
            yield from _expand(match, options, skipped)
    else:
        raise UsageError(f"{path}: no such file or directory")


def _matches(pattern: Path, skipped: dict[str, str]) -> list[Path]:
    """Return the matches of a glob without hidden files and masks; empty if the pattern is not a glob."""
    if not glob.has_magic(str(pattern)):
        return []
    # Brackets in the name of a directory that exists, such as ``study[2]``, belong to the name.
    there = next(parent for parent in pattern.parents if parent.exists())
    searched = os.path.join(glob.escape(str(there)), pattern.relative_to(there))
    paths = sorted(map(Path, glob.glob(searched, recursive=True)))
    return [path for path in paths if path.is_dir() or not _passed_over(path, skipped)]


def _passed_over(path: Path, skipped: dict[str, str]) -> bool:
    """Return whether a file is hidden, as unfinished files are, or is a mask of this program or of KiTS19."""
    if path.name.startswith("."):
        return True
    if stem(path).lower().endswith(("_seg", ".seg")) or stem(path) == "segmentation":
        skipped[str(path)] = "its name is that of a mask; rename it if it is a scan"
        return True
    if path.parent.name in LABEL_DIRECTORIES and any(path.parent.parent.glob("images*")):
        skipped[str(path)] = f"{path.parent.name} holds the label maps of a data set; name the file if it is a scan"
        return True
    return False


def _directory(top: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    dicom, files = [], []
    for path in files_below(top, skipped):
        if ending_of(path):
            if not _passed_over(path, skipped):
                files.append(path)
        elif is_dicom(path):
            dicom.append(path)
        else:
            name = path.name.lower()
            skipped |= {str(path): reason for endings, reason in UNREAD.items() if name.endswith(endings)}
    slices = [read_slice(path) for path in dicom]
    patients: dict[str, frozenset[str]] = defaultdict(frozenset)
    for one in slices:
        # All files in one subdirectory of ``top``, at any depth, are assumed to be one patient's.
        patients[one.path.relative_to(top).parts[0]] |= one.identity
    identity = frozenset().union(*patients.values())
    scans = [
        Found(path, "/".join((*directories_of_results(path, path.relative_to(top).parts[:-1]), scan_name(path))))
        for path in files
    ]
    for scan in (*scans, *_dicom(slices, top, options, skipped)):
        parts = scan.path.relative_to(top).parts
        yield replace(scan, patient=scan.patient | (patients[parts[0]] if parts else frozenset()), identity=identity)


def _dicom(slices: list[Slice], top: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    directories = sort_series(slices, top)
    some = any(directory.series or directory.damaged for directory in directories)
    for directory in directories:
        inside = directory.path.relative_to(top).parts
        name = "/".join(inside) or scan_name(top)
        skipped |= {str(copy): f"holds the same DICOM series as {directory.path}" for copy in directory.copies}
        if some and not directory.series and not directory.damaged:
            skipped[str(directory.path)] = "no CT, only " + ", ".join(
                f"{count} {kind}" for kind, count in directory.left_out
            )
        elif options.series == "all" and len(directory.series) > 1:
            for series in directory.series:
                label = series.label
                yield Found(
                    directory.path, f"{name}_series{label}", directory, label, directory.identity, directory.identity
                )
        else:
            yield Found(directory.path, name, directory, None, directory.identity, directory.identity)


def _list(path: Path, options: ReadOptions, skipped: dict[str, str]) -> Iterator[Found]:
    for number, entry in read_list(path).items():
        # A bad entry fails as a case of its own, so the other entries are still processed.
        try:
            near = path.parent / entry
            place = near if near.exists() or not Path(entry).exists() else Path(entry)
            places = [place] if place.exists() else _matches(near, skipped) or _matches(Path(entry), skipped) or [place]
            unusable = "another list, which is not supported; name its scans" if any(map(is_list, places)) else ""
        except OSError as error:  # the name is too long
            unusable = f"not a path ({error.strerror})"
        if "\0" in entry:
            unusable = "not a path (it contains a zero byte)"
        if unusable:
            yield Found(path, f"{path.stem}-line{number}", error=f"line {number} is {unusable}")
            continue
        for place in places:
            yield from _expand(place, options, skipped) if place.exists() else [Found(place, scan_name(place))]


def _distinct(scans: list[Found]) -> list[Found]:
    """Make names distinct: add the directories that differ, then the file ending."""
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
    return _numbered([replace(scan, name=_shortened(scan.name)) for scan in scans])


def _shortened(name: str) -> str:
    """Shorten a name that leaves no room for the endings of results; a digest keeps it distinct."""
    *directories, last = name.split("/")
    written = last.encode("utf-8", "surrogateescape")
    if len(written) <= LONGEST:
        return name
    digest = hashlib.sha256(written).hexdigest()[:8]
    return "/".join((*directories, f"{written[: LONGEST - 9].decode('utf-8', 'ignore')}-{digest}"))


def _numbered(scans: list[Found]) -> list[Found]:
    """Append a number to each name already taken, since one mask would overwrite the other."""
    taken: set[str] = set()
    for index, scan in enumerate(scans):
        name, number = scan.name, 1
        while name in taken:
            number += 1
            name = f"{scan.name}-{number}"
        taken.add(name)
        scans[index] = replace(scan, name=name)
    return scans


def _below(path: Path, common: str) -> tuple[str, ...]:
    return directories_of_results(path, path.absolute().parent.relative_to(common).parts)


def files_below(top: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """Yield all files below ``top``; follow links, but visit each directory only once."""
    seen = {os.path.realpath(path) for path in (top, *top.absolute().parents)}
    for directory, directories, files in os.walk(top, followlinks=True, onerror=lambda e: _note(skipped, e)):
        for name in sorted(directories):
            path, real = os.path.join(directory, name), os.path.realpath(os.path.join(directory, name))
            if real in seen:
                skipped[path] = "a link to a directory that was already searched"
                directories.remove(name)
            elif name.startswith("."):
                directories.remove(name)
            elif ending_of(Path(name)):
                skipped[path] = "is a directory with the name of a file; its content was searched"
            seen.add(real)
        directories.sort()
        for name in sorted(files):
            file = Path(directory, name)
            if file.is_file():
                yield file
            elif file.is_symlink() and not file.exists():
                skipped[str(file)] = "a broken or circular symbolic link"
            else:
                skipped[str(file)] = "is a pipe or device, not a file"


def _note(skipped: dict[str, str], error: OSError) -> None:
    skipped[str(error.filename)] = f"cannot be opened ({error.strerror})"
