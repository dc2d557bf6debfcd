"""The index of a folder of prepared cases: ``index.json``, and the data lists made of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import Recipe

from ..runtime import distributed
from ..runtime.errors import UsageError
from ..runtime.files import write_json
from .datasets import KITS19, SIZES

INDEX_FILE = "index.json"
VERSION = 1

logger = logging.getLogger("kits_unet3d.data")


@dataclass
class Index:
    """What a folder of prepared cases holds.

    Attributes:
        folder: where the arrays lie.
        name: of the data set; ``"KiTS19"`` for the real one.
        recipe: the numbers it was prepared with.
        cases: by identifier, each with split, shape, source_shape, source_spacing_mm, source_affine,
            boxes (component boxes by class), source_sha256 and md5 (each for image and label).
    """

    folder: Path
    name: str
    recipe: Recipe
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def exists(folder: str | Path) -> bool:
        return (Path(folder) / INDEX_FILE).is_file()

    @classmethod
    def read(cls, folder: str | Path) -> Index:
        """The index in ``folder``.

        Raises:
            UsageError: if there is none, in one sentence that says how to get one; or it is damaged.
        """
        path = Path(folder) / INDEX_FILE
        if not path.is_file():
            raise UsageError(
                f"{folder}: no prepared data here; run `kits-unet3d prepare --data-dir path/to/kits19/data "
                f"--out {folder}`, or `bash scripts/quickstart.sh` for a demo that needs no data"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}, known is {VERSION}")
            return cls(Path(folder), content["name"], Recipe.from_dict(content["recipe"]), dict(content["cases"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: not a usable index ({error}); prepare into a new folder") from error

    @classmethod
    def or_empty(cls, folder: str | Path) -> Index:
        """The index in ``folder``; one without cases if it cannot be used, for configurations whose data lists may be
        given: :func:`require_data` says what is wrong once they run.
        """
        try:
            return cls.read(folder)
        except UsageError:
            return cls(Path(folder), "", Recipe())

    def write(self) -> None:
        """The index as sorted JSON, whole."""
        write_json(
            self.folder / INDEX_FILE,
            {
                "version": VERSION,
                "name": self.name,
                "recipe": self.recipe.as_dict(),
                "cases": dict(sorted(self.cases.items())),
            },
        )

    def require(self, recipe: Recipe) -> None:
        """Checks that the cases were prepared with ``recipe``'s numbers.

        Raises:
            UsageError: naming the first that differs, if they were not.
        """
        for name in ("spacing_mm", "hu_window", "hu_mean", "hu_std", "roi_size", "classes"):
            prepared, wanted = getattr(self.recipe, name), getattr(recipe, name)
            if prepared != wanted:
                raise UsageError(
                    f"{self.folder}: was prepared with {name} {prepared}, but {wanted} is needed; prepare "
                    "again with `kits-unet3d prepare --config` and the configuration of the training"
                )

    @property
    def digest(self) -> str:
        """Of the cases, their split and the files they were made from: equal for a set that lies elsewhere or was
        prepared again, so that a run goes on with its own data and no other."""
        made_of = {case_id: (case["split"], case.get("source_sha256")) for case_id, case in self.cases.items()}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]

    def data_list(self, split: str) -> list[dict[str, Any]]:
        """The cases of ``"training"`` or ``"evaluation"`` for a MONAI data set.

        Each holds case_id, image and label (paths), and boxes: component boxes by class number.
        """
        return [
            {
                "case_id": case_id,
                "image": str(self.folder / f"{case_id}_x.npy"),
                "label": str(self.folder / f"{case_id}_y.npy"),
                "boxes": {int(number): boxes for number, boxes in record["boxes"].items()},
            }
            for case_id, record in sorted(self.cases.items())
            if record["split"] == split
        ]


def require_data(
    folder: str | Path,
    recipe: Recipe,
    evaluation: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]] | None = None,
    cases_a_step: int = 1,
) -> None:
    """Checks the data lists that a run really uses, which may be the index's or somebody else's.

    All processes must call it. Warns where KiTS19 has other numbers of cases than MLPerf's.

    Args:
        folder: with the index, from which come lists whose cases have boxes.
        recipe: for which its cases must have been prepared.
        evaluation: this process's share of the cases.
        training: all cases, of which each process needs ``cases_a_step``; None where nothing is trained.
        cases_a_step: of training, batch size times accumulation: with fewer, an epoch has no step.

    Raises:
        UsageError: if a list comes from the index, or is empty, and the index is of no use; or there are too few cases.
    """
    processes = distributed.world_size()
    found = {"evaluation": (sum(distributed.gather(len(evaluation))), 1)}
    if training is not None:
        found = {"training": (len(training), cases_a_step), **found}
    cases = [*evaluation, *(training or ())]
    if not all(count for count, _ in found.values()) or any("boxes" in case for case in cases):
        Index.read(folder).require(recipe)
    for split, (count, each) in found.items():
        if count < each * processes:
            raise UsageError(
                f"{folder}: {count} {split} case(s) for {processes} process(es), each of which needs "
                f"{each}; prepare more cases, or start fewer processes"
            )
    if distributed.rank() == 0 and Index.or_empty(folder).name == KITS19:
        for split, (count, _) in found.items():
            if count != SIZES[split]:
                logger.warning("%d %s cases, %s has %d: the score is not MLPerf's", count, split, KITS19, SIZES[split])


def default_folder() -> str:
    """Where prepared data lie by default: under ``PYTORCH_TRAIN_DATASET`` if that is set, else ``data/``."""
    root = os.environ.get("PYTORCH_TRAIN_DATASET")
    return str(Path(root) / "KiTS19" / "pre_data_dir") if root else "data"
