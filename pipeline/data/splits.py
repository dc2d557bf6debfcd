"""Divide the training cases into folds for cross-validation; evaluation cases stay outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.errors import UsageError
from .index import Index


def folds_of(cases: Mapping[str, Mapping[str, Any]], folds: int) -> dict[str, int]:
    """Return the fold of each training case, 0 to ``folds − 1``, by identifier.

    Cases with the same scan or label map, such as several simulated bodies, stay in one fold: a network that has seen
    a kidney in one of them knows it in the others. The groups, sorted by their first case, go to the folds in turn.
    Only the identifiers and the hashes of the raw files decide.

    Args:
        cases: cases by identifier, as in an :class:`Index`.
        folds: number of folds, at least 2.

    Raises:
        UsageError: if there are fewer groups than folds, or fewer than 2 folds.
    """
    if folds < 2:
        raise UsageError(f"folds must be at least 2, got {folds}")
    groups = _alike({case_id: case for case_id, case in sorted(cases.items()) if case["split"] == "training"})
    if len(groups) < folds:
        raise UsageError(
            f"{len(groups)} different training case(s) for {folds} folds; preprocess more cases, or set fewer --folds"
        )
    return {case_id: number % folds for number, group in enumerate(groups) for case_id in group}


def _alike(cases: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Group the cases that have a scan or a label map in common, directly or through others, in the order of cases."""
    groups: dict[str, list[str]] = {case_id: [case_id] for case_id in cases}
    first: dict[tuple[str, str], str] = {}
    for case_id, case in cases.items():
        # A record without hashes is from an older index; then the case is a group.
        for file in case.get("source_sha256", {}).items():
            joined, own = groups[first.setdefault(file, case_id)], groups[case_id]
            if joined is not own:
                joined += own
                groups.update(dict.fromkeys(own, joined))
    return [group for case_id, group in groups.items() if case_id == group[0]]


def require_fold(fold: Any, folds: Any) -> None:
    """Raise a UsageError unless ``fold`` is one of ``folds``."""
    if not (isinstance(fold, int) and isinstance(folds, int) and 0 <= fold < folds):
        raise UsageError(f"fold must be a whole number from 0 and below folds, got {fold} of {folds}")


def _in_fold(index: Index, fold: int, folds: int, inside: bool) -> list[dict[str, Any]]:
    require_fold(fold, folds)
    if not index.cases:  # the start of the run reports the fault of such an index
        return []
    of = folds_of(index.cases, folds)
    return [case for case in index.data_list("training") if (of[case["case_id"]] == fold) is inside]


def training_list(index: Index, fold: int | None = None, folds: int = 5) -> list[dict[str, Any]]:
    """Return the cases of the training split, without those of ``fold`` if given."""
    return index.data_list("training") if fold is None else _in_fold(index, fold, folds, False)


def evaluation_list(index: Index, fold: int | None = None, folds: int = 5) -> list[dict[str, Any]]:
    """Return the cases of the evaluation split, or the training split's cases in ``fold`` if given."""
    return index.data_list("evaluation") if fold is None else _in_fold(index, fold, folds, True)
