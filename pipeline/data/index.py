"""Read and write the index of preprocessed cases (``index.json``), and make data lists from it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kits_unet3d.transforms import PreprocessingParameters

from ..runtime import distributed
from ..runtime.errors import UsageError
from ..runtime.files import write_json, writing_into
from .arrays import INDEX_FILE, VERSION, array_fault, array_files, index_file
from .datasets import KITS19, KITS23_CLASSES, SIZES

logger = logging.getLogger("kits_unet3d.data")


@dataclass
class Index:
    """Describe a directory of preprocessed cases.

    Attributes:
        directory: directory of the arrays.
        name: name of the data set; ``"KiTS19"`` for the real one.
        parameters: preprocessing parameters of the cases.
        cases: by identifier, each with split, shape, source_shape, source_spacing_mm, source_affine,
            boxes (component boxes by class), source_sha256 and md5 (each for image and label).
    """

    directory: Path
    name: str
    parameters: PreprocessingParameters
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def exists(directory: str | Path) -> bool:
        return (Path(directory) / INDEX_FILE).is_file()

    @classmethod
    def read(cls, directory: str | Path) -> Index:
        """Read the index in ``directory``.

        A directory that the MLPerf reference or Cambricon's port preprocessed has none; it is then made once, from its
        arrays (:func:`~kits_unet3d.pipeline.data.arrays.index_file`).

        Raises:
            UsageError: if the index is damaged or missing; the error message explains how to make one.
        """
        path: Path | None = Path(directory) / INDEX_FILE
        if path is not None and not path.is_file():
            path = index_file(Path(directory))
        if path is None:
            raise UsageError(
                f"{directory}: contains no preprocessed data; run `kits-unet3d prepare --data-dir path/to/kits19/data "
                f"-o {directory}`, or `bash scripts/quickstart.sh` for a demo without data"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}, known is {VERSION}")
            return cls(
                Path(directory),
                content["name"],
                PreprocessingParameters.from_dict(content["preprocessing_parameters"]),
                _valid(content["cases"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path}: not a usable index ({error}); preprocess into a new directory") from error

    @classmethod
    def or_empty(cls, directory: str | Path) -> Index:
        """Read the index in ``directory``, or return one without cases if it cannot be used.

        A configuration with its own data list has no index; :func:`require_data` reports a fault when it runs.
        """
        try:
            return cls.read(directory)
        except UsageError:
            return cls(Path(directory), "", PreprocessingParameters())

    def write(self) -> None:
        """Write the index atomically as sorted JSON."""
        content = {
            "version": VERSION,
            "name": self.name,
            "preprocessing_parameters": self.parameters.as_dict(),
            "cases": dict(sorted(self.cases.items())),
        }
        with writing_into(self.directory):
            write_json(self.directory / INDEX_FILE, content)

    def require(self, parameters: PreprocessingParameters) -> None:
        """Check that the cases have the preprocessing parameters ``parameters``.

        Raises:
            UsageError: if a parameter differs; the message names the first.
        """
        for name in ("spacing_mm", "hu_window", "hu_mean", "hu_std", "roi_size", "classes"):
            preprocessed, wanted = getattr(self.parameters, name), getattr(parameters, name)
            if preprocessed != wanted:
                way_out = "preprocess again with `kits-unet3d prepare --config` and the configuration of the training"
                if name == "classes" and preprocessed == KITS23_CLASSES:
                    way_out = "train with the configurations train, dynunet_ds and kits23"
                raise UsageError(
                    f"{self.directory}: was preprocessed with {name} {preprocessed}, but {wanted} is needed; {way_out}"
                )

    def require_arrays(self, case_ids: Sequence[str]) -> None:
        """Check the arrays of ``case_ids`` by their headers and sizes; `kits-unet3d verify` compares their hashes.

        Raises:
            UsageError: naming the first array that is missing, truncated or of another shape than in the index.
        """
        for path, fault in self.misfits(case_ids).items():
            raise UsageError(
                f"{path}: {fault}; `kits-unet3d verify` lists such files, and `kits-unet3d prepare` makes them again"
            )

    def misfits(self, case_ids: Sequence[str] | None = None) -> dict[Path, str]:
        """Return the arrays of ``case_ids`` (default: all) that do not fit the index, with the faults, in order."""
        faults = {}
        for case_id in sorted(self.cases if case_ids is None else set(case_ids) & set(self.cases)):
            shape = self.cases[case_id].get("shape")
            for path, dtype in zip(array_files(self.directory, case_id), (np.float32, np.uint8), strict=True):
                if fault := array_fault(path, np.dtype(dtype), shape):
                    faults[path] = fault
        return faults

    @property
    def digest(self) -> str:
        """Return a hash of cases, split, source files and arrays, so that a run resumes with its own data only.

        A moved or repeatedly preprocessed data set keeps its hash.
        """
        made_of = {
            case_id: [case["split"], case.get("source_sha256"), case.get("md5")] for case_id, case in self.cases.items()
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]

    def data_list(self, split: str) -> list[dict[str, Any]]:
        """Return the cases of ``"training"`` or ``"evaluation"`` for a MONAI data set.

        Each contains case_id, image and label (paths), and boxes (component boxes by class number).
        """
        return [
            {
                "case_id": case_id,
                **dict(zip(("image", "label"), map(str, array_files(self.directory, case_id)), strict=True)),
                "boxes": {int(number): boxes for number, boxes in record["boxes"].items()},
            }
            for case_id, record in sorted(self.cases.items())
            if record["split"] == split
        ]


def _valid(cases: Any) -> dict[str, dict[str, Any]]:
    """Return the records of an index; raise a ValueError if one lacks what training and evaluation need."""
    for case_id, record in cases.items():
        if Path(case_id).name != case_id or not case_id:  # it would read arrays elsewhere
            raise ValueError(f"the name {case_id!r}")
        boxes = [np.shape(found) for found in record["boxes"].values()]
        if record["split"] not in SIZES or not all(
            len(shape) == 3 and shape[1:] == (3, 2) for shape in boxes if shape[0]
        ):
            raise ValueError(f"the record of {case_id}")
        shape = record.get("shape", (0, 0, 0))
        if len(shape) != 3:
            raise ValueError(f"the shape of {case_id}")
        for found in record["boxes"].values():
            first, stop = np.asarray(found).reshape(-1, 3, 2).transpose(2, 0, 1)
            if (first < 0).any() or (first >= stop).any() or ("shape" in record and (stop > shape).any()):
                raise ValueError(f"the boxes of {case_id}")
        record.get("source_sha256", {}).get("label"), record.get("md5", {}).items()
    return dict(cases)


def require_data(
    directory: str | Path,
    parameters: PreprocessingParameters,
    evaluation: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]] | None = None,
    cases_a_step: int = 1,
) -> None:
    """Check the data lists of a run, which may come from the index or from elsewhere.

    All processes must call it. It warns if the case numbers of KiTS19 differ from MLPerf's.

    Args:
        directory: directory of the index; a case with the key ``boxes`` comes from it.
        parameters: preprocessing parameters that its cases must have.
        evaluation: this process's share of the cases.
        training: all cases, of which each process needs ``cases_a_step``; None without training.
        cases_a_step: batch size times accumulation; with fewer cases an epoch has no step.

    Raises:
        UsageError: if there are too few cases; or if the index is needed (a list is empty or comes from it) and cannot
            be used.
    """
    processes = distributed.world_size()
    found = {"evaluation": (sum(distributed.gather(len(evaluation))), 1)}
    if training is not None:
        found = {"training": (len(training), cases_a_step), **found}
    cases = [*evaluation, *(training or ())]
    if not all(count for count, _ in found.values()) or any("boxes" in case for case in cases):
        index = Index.read(directory)
        index.require(parameters)
        index.require_arrays([str(case["case_id"]) for case in cases if "boxes" in case])
    for split, (count, each) in found.items():
        if count < each * processes:
            raise UsageError(
                f"{directory}: {count} {split} case(s) for {processes} process(es), each of which needs "
                f"{each}; preprocess more cases, or start fewer processes"
            )
    if distributed.rank() == 0 and Index.or_empty(directory).name == KITS19:
        for split, (count, _) in found.items():
            if count != SIZES[split]:
                logger.warning("%d %s cases, %s has %d: the score is not MLPerf's", count, split, KITS19, SIZES[split])


def default_directory() -> str:
    """Return the default directory of preprocessed data: under ``PYTORCH_TRAIN_DATASET`` if set, else ``data/``."""
    root = os.environ.get("PYTORCH_TRAIN_DATASET")
    return str(Path(root) / "KiTS19" / "pre_data_dir") if root else "data"
