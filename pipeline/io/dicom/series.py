"""Sort DICOM files into series, and series into phases."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.errors import CaseError
from .headers import CT, PHASE_TAGS, Slice

#: Positions closer than this count as the same, in mm.
SAME_MM = 0.01
#: Directions and voxel sizes (mm) that differ by less than this count as the same.
SAME_GEOMETRY = 1e-3
#: Fewest slices of another geometry that are a series of their own.
FEWEST = 3


@dataclass(frozen=True)
class Series:
    """Hold the slices of one series or phase.

    Attributes:
        label: series number, or a running number if it is missing or ambiguous; the phase follows a dot, if any.
    """

    label: str
    uid: str
    description: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        # Leave out the description: it may contain names.
        return f"{self.label} ({len(self.slices)} slices)"


@dataclass(frozen=True)
class DicomDirectory:
    """Hold a directory's CT series, and what else is there.

    Attributes:
        left_out: counts of other objects.
        damaged: files that cannot be read, of one of its series or of an unknown one.
        identity: words that name its patients.
        copies: directories that hold one of its series once more.
    """

    path: Path
    series: tuple[Series, ...]
    left_out: tuple[tuple[str, int], ...] = ()
    damaged: tuple[Slice, ...] = ()
    identity: frozenset[str] = frozenset()
    copies: tuple[Path, ...] = ()

    def choose(self, wanted: str | None) -> Series:
        """Return the only series, or the one whose label, UID or description is ``wanted``.

        Raises:
            CaseError: listing the series, if none or several match.
        """
        if not self.series:
            others = ", ".join(f"{count} {kind}" for kind, count in self.left_out) or "damaged files"
            hint = "; convert it to single frames" if "multi-frame" in others else ""
            raise CaseError(f"{self.path}: contains no CT series, only {others}{hint}")
        listed = ", ".join(map(str, self.series))
        if wanted is None or wanted == "all":
            if len(self.series) > 1:
                raise CaseError(f"{self.path}: contains {len(self.series)} CT series: {listed}; choose with --series")
            return self.series[0]
        chosen = [s for s in self.series if wanted in (s.label, s.uid, s.description)]
        if len(chosen) != 1:
            raise CaseError(f"{self.path}: {len(chosen)} series match {wanted!r}; it contains {listed}")
        return chosen[0]


def sort_series(slices: Iterable[Slice], top: Path) -> list[DicomDirectory]:
    """Sort slices into series and return the directories of ``top`` with their series.

    A series in several directories belongs to their common parent; a directory that only repeats slices of another one
    is its copy. Series without a UID are separated by directory, and series of two patients by patient. A damaged file
    belongs to its series if that is known; it and other objects belong to the nearest directory with slices otherwise.
    """
    groups: dict[tuple[str, str, Path | None], list[Slice]] = defaultdict(list)
    others: dict[Path, Counter[str]] = defaultdict(Counter)
    damaged: list[Slice] = []
    identity: dict[Path, set[str]] = defaultdict(set)
    for one in slices:
        identity[one.path.parent] |= one.identity
        if one.error and one.sop_class in ("", CT):
            damaged.append(one)
        elif one.kind or one.error:
            others[one.path.parent][one.kind or "unknown object"] += 1
        else:
            groups[(one.series_uid, one.patient_id, None if one.series_uid else one.path.parent)].append(one)
    directories: dict[Path, list[list[Slice]]] = defaultdict(list)
    copies: dict[Path, set[Path]] = defaultdict(set)
    homes: dict[Path, Path] = {}  # directory of the series whose slices are in a directory
    by_uid: dict[str, list[Path]] = defaultdict(list)
    for (uid, _, _), group in groups.items():
        for part in _by_geometry(group):
            if len(part) < FEWEST < len(group):  # a few slices of another kind do not make a scan
                others[part[0].path.parent]["slice of another size or orientation"] += len(part)
                continue
            kept, repeated = _without_copied_directories(part)
            place = _common(kept, top)
            directories[place].append(kept)
            copies[place] |= repeated
            homes |= {one.path.parent: place for one in kept}
            by_uid[uid].append(place)
    only_copies = {path: place for place, paths in copies.items() for path in paths if path not in homes}
    homes |= only_copies
    lost: dict[Path, list[Slice]] = defaultdict(list)
    for one in damaged:
        near = _nearest(one.path.parent, homes, directories)
        if one.path.parent in only_copies:
            others[near][f"damaged file of a copy ({one.error})"] += 1
        else:
            places = by_uid[one.series_uid] if one.series_uid else []
            lost[near if near in places or not places else places[0]].append(one)
    left_out: dict[Path, Counter[str]] = defaultdict(Counter)
    for path, counts in others.items():
        left_out[_nearest(path, homes, directories)].update(counts)
    result = []
    for path in sorted({*directories, *lost, *left_out}):
        series = _labelled(directories.get(path, []))
        if not (series or lost[path]) and left_out[path].keys() == {"directory"}:
            continue
        if series:  # a file that is not DICOM is not a missing slice
            left_out[path].update(f"damaged file ({one.error})" for one in lost[path] if one.stray)
            lost[path] = [one for one in lost[path] if not one.stray]
        # A directory's name may contain a name that only tags in its subdirectories hold.
        known = frozenset().union(*(words for p, words in identity.items() if p == path or path in p.parents))
        counted, again = tuple(sorted(left_out[path].items())), tuple(sorted(copies.get(path, ())))
        result.append(DicomDirectory(path, tuple(series), counted, tuple(lost[path]), known, again))
    return result


def _nearest(path: Path, homes: Mapping[Path, Path], directories: Container[Path]) -> Path:
    """Return the directory of the series whose slices are nearest, in ``path`` or above; ``path`` itself if none."""
    if path in directories:
        return path
    return next((homes[place] for place in (path, *path.parents) if place in homes), path)


def _without_copied_directories(group: list[Slice]) -> tuple[list[Slice], set[Path]]:
    """Leave out directories that hold only objects which another one holds too; return the rest, and them."""
    inside: dict[Path, list[Slice]] = defaultdict(list)
    for one in group:
        inside[one.path.parent].append(one)
    kept: dict[Path, set[tuple[str, str]]] = {}
    for path in sorted(inside, key=lambda path: (-len(inside[path]), path)):
        objects = {(one.uid or str(one.path), str(one.position)) for one in inside[path]}
        if not any(objects <= others for others in kept.values()):
            kept[path] = objects
    return [one for one in group if one.path.parent in kept], inside.keys() - kept.keys()


def _by_geometry(group: list[Slice]) -> list[list[Slice]]:
    """Split a group into slices of one orientation, voxel size and size, such as a scan and its reformats."""
    parts: list[list[Slice]] = []
    for one in group:
        geometry = (*one.orientation, *one.spacing, *one.size)
        for part in parts:
            first = (*part[0].orientation, *part[0].spacing, *part[0].size)
            if len(first) == len(geometry) and np.allclose(first, geometry, rtol=0, atol=SAME_GEOMETRY):
                part.append(one)
                break
        else:
            parts.append([one])
    return parts


def _common(group: list[Slice], top: Path) -> Path:
    first, *others = {one.path.parent for one in group}
    while any(first != other and first not in other.parents for other in others) and first != top:
        first = first.parent
    return first


def _labelled(groups: list[list[Slice]]) -> list[Series]:
    # The number becomes part of a file name, but a damaged header may hold any text.
    label_of = {id(group): re.sub(r"\W", "_", group[0].series_number) for group in groups}
    numbers = Counter(label_of.values())
    result = []
    for index, group in enumerate(sorted(groups, key=lambda g: (g[0].series_number.zfill(9), g[0].series_uid)), 1):
        first = group[0]
        label = label_of[id(group)]
        label = label if label and numbers[label] == 1 else f"#{index}"
        phases = _phases(_without_copies(group))
        result += [
            Series(label if len(phases) == 1 else f"{label}.{n}", first.series_uid, first.description, tuple(phase))
            for n, phase in enumerate(phases, start=1)
        ]
    return result


def _without_copies(group: list[Slice]) -> list[Slice]:
    """Return each object once, even if it is stored twice."""
    return list({(one.uid or str(one.path), one.position): one for one in sorted(group, key=lambda s: s.path)}.values())


def _phases(group: list[Slice]) -> list[list[Slice]]:
    """Split a group into its phases if slices share positions and one tag separates them cleanly."""
    if not all(one.position and one.orientation for one in group) or not shares_positions(group):
        return [group]
    for index in range(len(PHASE_TAGS)):
        parts: dict[str, list[Slice]] = defaultdict(list)
        for one in group:
            parts[one.phase[index]].append(one)
        if len(parts) > 1 and len({len(p) for p in parts.values()}) == 1 and len(group) // len(parts) > 1:
            places = [np.sort([s.distance for s in part]) for part in parts.values()]
            if not any(shares_positions(p) for p in parts.values()) and np.allclose(places, places[0], atol=SAME_MM):
                return [parts[key] for key in sorted(parts)]
    return [group]


def shares_positions(slices: Iterable[Slice]) -> bool:
    """Return whether two of the slices lie at the same position."""
    return bool((np.diff(np.sort([one.distance for one in slices])) < SAME_MM).any())
