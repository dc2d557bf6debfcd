"""Cross-validation: deal the training cases out in folds; the evaluation cases are in none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.errors import UsageError
from .index import Index


def folds_of(cases: Mapping[str, Mapping[str, Any]], folds: int) -> dict[str, int]:
    """The fold of each training case, 0 to ``folds − 1``, by its identifier.

    Cases around one label map stay together, such as several simulated bodies: a network that has seen a kidney in
    one of them knows it in the others. The groups, by their first case, are dealt out in turn; nothing but the
    identifiers and label maps decides.

    Args:
        cases: by identifier, as an :class:`Index` has them.
        folds: at least 2.

    Raises:
        UsageError: if there are fewer label maps than folds.
    """
    if folds < 2:
        raise UsageError(f"folds must be at least 2, got {folds}")
    groups: dict[str, list[str]] = {}
    for case_id, case in sorted(cases.items()):
        if case["split"] == "training":
            # A record without hashes is of an older index; then each case is its own.
            groups.setdefault(case.get("source_sha256", {}).get("label", case_id), []).append(case_id)
    if len(groups) < folds:
        raise UsageError(
            f"{len(groups)} training label map(s) for {folds} folds; prepare more cases, or set fewer --folds"
        )
    return {case_id: number % folds for number, group in enumerate(groups.values()) for case_id in group}


def require_fold(fold: Any, folds: Any) -> None:
    """Raises a UsageError unless ``fold`` is one of ``folds``."""
    if not (isinstance(fold, int) and isinstance(folds, int) and 0 <= fold < folds):
        raise UsageError(f"fold must be a whole number from 0 and below folds, got {fold} of {folds}")


def _in_fold(index: Index, fold: int, folds: int, inside: bool) -> list[dict[str, Any]]:
    require_fold(fold, folds)
    if not index.cases:  # what is wrong with such an index is told once the run starts
        return []
    of = folds_of(index.cases, folds)
    return [case for case in index.data_list("training") if (of[case["case_id"]] == fold) is inside]


def training_list(index: Index, fold: int | None = None, folds: int = 5) -> list[dict[str, Any]]:
    """The cases to train on: the training split's, without those of ``fold`` if one is given."""
    return index.data_list("training") if fold is None else _in_fold(index, fold, folds, False)


def evaluation_list(index: Index, fold: int | None = None, folds: int = 5) -> list[dict[str, Any]]:
    """The cases to evaluate on: the evaluation split's, or in its place the training split's that are in ``fold``."""
    return index.data_list("evaluation") if fold is None else _in_fold(index, fold, folds, True)
