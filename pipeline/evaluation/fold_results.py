"""Write, read and check the result that ``kits-unet3d train`` leaves beside its models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kits_unet3d.networks import read_checkpoint

from ..runtime.errors import UsageError
from ..runtime.files import write_json
from ..training.checkpoint import FINAL
from ..training.run_state import differing

RESULT_FILE = "result.json"
#: Entries of a checkpoint's configuration that may differ between the folds of one cross-validation.
OF_ONE_FOLD = {"fold", "seed", "training_cases", "epoch_length"}


@dataclass(frozen=True)
class FoldResult:
    """Describe one training of a cross-validation.

    Attributes:
        directory: directory of the training; not in the file, which may be moved with it.
        fold: number of the held-out fold, from 0; None for a training on all training cases.
        folds: number of folds.
        training_cases: identifiers of the training cases.
        evaluation_cases: identifiers of the evaluated cases; with a fold, the held-out ones.
        scores: of the last evaluation on the preprocessed grid: ``cases``, ``mean``, ``counted``.
    """

    directory: Path
    fold: int | None
    folds: int
    training_cases: list[str]
    evaluation_cases: list[str]
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """Return the last weights, since the scored cases themselves would choose the best ones."""
        return self.directory / "models" / FINAL

    def write(self) -> None:
        """Write ``result.json`` into the directory as a whole file."""
        content = asdict(self)
        del content["directory"]
        write_json(self.directory / RESULT_FILE, content)

    @classmethod
    def read(cls, directory: str | Path) -> FoldResult:
        """Read the result that :meth:`write` wrote.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        path = Path(directory) / RESULT_FILE
        if not path.is_file():
            raise UsageError(
                f"{directory}: contains no finished training; run `kits-unet3d train --fold … -o {directory}`"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(Path(directory), **content)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}: not usable ({error}); train again into a new directory") from error


def read_results(directories: Sequence[str | Path]) -> list[FoldResult]:
    """Read the trainings in ``directories``, sorted by fold.

    Raises:
        UsageError: if one lacks a fold, two held out the same case, or they are of different cross-validations. A
            network would then be scored on a case that it has seen, or a case would be scored twice.
    """
    results = [FoldResult.read(directory) for directory in directories]
    seen: dict[str, FoldResult] = {}
    for result in results:
        if result.fold is None:
            raise UsageError(f"{result.directory}: was trained on all cases, so no case is unseen; train with --fold")
        if result.folds != results[0].folds:
            raise UsageError(
                f"{result.directory}: has {result.folds} folds, {results[0].directory} has {results[0].folds}; "
                "name the trainings of one cross-validation"
            )
        for case_id in result.evaluation_cases:
            if case_id in seen:
                raise UsageError(f"{result.directory}: {case_id} was held out in {seen[case_id].directory} too")
            seen[case_id] = result
    for result in results:
        for case_id in result.training_cases:
            if case_id in seen and seen[case_id].fold == result.fold:
                raise UsageError(f"{result.directory}: {case_id} was both trained on and held out")
    return sorted(results, key=lambda result: result.fold or 0)


def require_alike(results: Sequence[FoldResult]) -> None:
    """Check by the checkpoints that all trainings have the same recipe and data.

    Raises:
        UsageError: if one differs from the first.
        CheckpointError: if a checkpoint cannot be read.
    """
    first, *others = (read_checkpoint(result.checkpoint).get("configuration", {}) for result in results)
    for result, other in zip(results[1:], others, strict=True):
        if named := ", ".join(name for name in differing(first, other) if name not in OF_ONE_FOLD):
            raise UsageError(
                f"{result.directory}: was not trained like {results[0].directory} ({named}); "
                "name the trainings of one cross-validation"
            )
