"""Divide the training cases into folds for cross-validation; evaluation cases stay outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.errors import UsageError
from .index import Index


def folds_of(cases: Mapping[str, Mapping[str, Any]], folds: int) -> dict[str, int]:
    """Return the fold of each training case, 0 to ``folds − 1``, by identifier.

    Cases with the same label map, such as several simulated bodies, stay in one fold: a network that has seen a
    kidney in one of them knows it in the others. The groups, sorted by their first case, go to the folds in turn.
    Only the identifiers and label maps decide.

    Args:
        cases: cases by identifier, as in an :class:`Index`.
        folds: number of folds, at least 2.

    Raises:
        UsageError: if there are fewer label maps than folds, or fewer than 2 folds.
    """
    if folds < 2:
        raise UsageError(f"folds must be at least 2, got {folds}")
    groups: dict[str, list[str]] = {}
    for case_id, case in sorted(cases.items()):
        if case["split"] == "training":
            # A record without hashes is from an older index; then each case is a group.
            groups.setdefault(case.get("source_sha256", {}).get("label", case_id), []).append(case_id)
    if len(groups) < folds:
        raise UsageError(
            f"{len(groups)} training label map(s) for {folds} folds; preprocess more cases, or set fewer --folds"
        )
    return {case_id: number % folds for number, group in enumerate(groups.values()) for case_id in group}


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
