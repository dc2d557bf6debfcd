"""DICOM files sorted into series, and series into phases."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.errors import CaseError
from .headers import CT, PHASE_TAGS, Slice

#: Positions closer than this are one, in mm.
SAME_MM = 0.01


@dataclass(frozen=True)
class Series:
    """Slices that belong together.

    Attributes:
        label: its number, with the phase behind a dot where there are several; a running number without one.
    """

    label: str
    uid: str
    description: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        # Without the description, into which people write names.
        return f"{self.label} ({len(self.slices)} slices)"


@dataclass(frozen=True)
class DicomFolder:
    """One folder's CT series, the counts of what else is in it, its damaged files, and words that name its patients."""

    path: Path
    series: tuple[Series, ...]
    left_out: tuple[tuple[str, int], ...] = ()
    damaged: tuple[Slice, ...] = ()
    identity: frozenset[str] = frozenset()

    def choose(self, wanted: str | None) -> Series:
        """The only series, or the one whose label, UID or description is ``wanted``.

        Raises:
            CaseError: listing the series, if none or several are meant.
        """
        if not self.series:
            others = ", ".join(f"{count} {kind}" for kind, count in self.left_out) or "damaged files"
            hint = "; convert it to single frames" if "multi-frame" in others else ""
            raise CaseError(f"{self.path}: holds no CT series, only {others}{hint}")
        listed = ", ".join(map(str, self.series))
        if wanted is None or wanted == "all":
            if len(self.series) > 1:
                raise CaseError(f"{self.path}: holds {len(self.series)} CT series: {listed}; choose with --series")
            return self.series[0]
        chosen = [s for s in self.series if wanted in (s.label, s.uid, s.description)]
        if len(chosen) != 1:
            raise CaseError(f"{self.path}: {len(chosen)} series are {wanted!r}; it holds {listed}")
        return chosen[0]


def sort_series(slices: Iterable[Slice], top: Path) -> list[DicomFolder]:
    """The folders of ``top`` with their series.

    A series may lie in several folders, and then belongs to the one above them; series without a UID
    are told apart by their folder, and those of two patients by the patient.
    """
    groups: dict[tuple[str, str, Path | None], list[Slice]] = defaultdict(list)
    others: dict[Path, Counter[str]] = defaultdict(Counter)
    damaged: dict[Path, list[Slice]] = defaultdict(list)
    identity: dict[Path, set[str]] = defaultdict(set)
    for one in slices:
        identity[one.path.parent] |= one.identity
        if one.error and one.sop_class in ("", CT):
            damaged[one.path.parent].append(one)
        elif one.kind or one.error:
            others[one.path.parent][one.kind or "unknown object"] += 1
        else:
            groups[(one.series_uid, one.patient_id, None if one.series_uid else one.path.parent)].append(one)
    folders: dict[Path, list[list[Slice]]] = defaultdict(list)
    for group in groups.values():
        folders[_common(group, top)].append(group)
    for path in (*others, *damaged):
        # What is no CT belongs to the nearest folder that has a series, or stands alone.
        if not any(path == f or f in path.parents for f in folders) and others[path].keys() != {"directory"}:
            folders[path] = []
    result = []
    for path, groups_here in sorted(folders.items()):
        left_out = sum((c for p, c in others.items() if p == path or path in p.parents), Counter())
        lost = [one for p, found in damaged.items() if p == path or path in p.parents for one in found]
        if groups_here:  # a series lacks no file that never was a slice
            left_out.update(f"damaged file ({one.error})" for one in lost if one.stray)
            lost = [one for one in lost if not one.stray]
        # A folder's name may tell what only its other parts' tags say.
        known = frozenset().union(*(words for p, words in identity.items() if p == path or path in p.parents))
        result.append(
            DicomFolder(path, tuple(_labelled(groups_here)), tuple(sorted(left_out.items())), tuple(lost), known)
        )
    return result


def _common(group: list[Slice], top: Path) -> Path:
    first, *others = {one.path.parent for one in group}
    while any(first != other and first not in other.parents for other in others) and first != top:
        first = first.parent
    return first


def _labelled(groups: list[list[Slice]]) -> list[Series]:
    # A number is part of a file's name, but in a damaged header it may be anything.
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
    """Each object once, though it may be stored twice."""
    return list({one.uid or str(one.path): one for one in sorted(group, key=lambda s: s.path)}.values())


def _phases(group: list[Slice]) -> list[list[Slice]]:
    """The group itself, or its phases if slices share positions and one tag tells them apart cleanly."""
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
    """Whether two of the slices lie at one place."""
    return bool((np.diff(np.sort([one.distance for one in slices])) < SAME_MM).any())
