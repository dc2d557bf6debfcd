"""Score each case by the reference's Dice, with equal weight for each case on any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.metrics import DiceMetric

from kits_unet3d.transforms import PreprocessingParameters

from ..data import require_data
from ..device import Accelerator
from ..runtime import distributed
from ..runtime.errors import errors_reported
from ..runtime.output import device_line
from .scores import KITS23, Scores, scoring_of


def dice_scores(predicted: torch.Tensor, label: torch.Tensor, classes: int = 3) -> list[float]:
    """Compute the Dice of each class above the background for one case.

    Args:
        predicted, label: (1, D, H, W) or (D, H, W) with class numbers.
        classes: number of classes, with the background.

    A class that is absent from prediction and label scores 1. The reference's 1e-6 in numerator and denominator
    gives the same.
    """
    metric = DiceMetric(include_background=False, ignore_empty=False, num_classes=classes)
    shape = (1, 1, *predicted.shape[-3:])
    return [float(v) for v in metric(predicted.reshape(shape), label.reshape(shape))[0]]


class CaseScores:
    """Collect the scores of each case over an evaluation and gather them over all processes.

    Sets ``mean_dice``, ``L1_dice`` and ``L2_dice`` (:func:`dice_scores`) in ``engine.state.metrics``. With the classes
    of KiTS23 it sets the Dice of its hierarchical classes and of the cyst instead; ``mean_dice`` is then the mean of
    the hierarchical ones. Usable as a MONAI ``key_val_metric``. The scores by case stay in ``self.by_case``.

    The engine's batch must hold ``case_id``. Its output must hold ``pred`` and ``label`` with class numbers,
    decollated, as MONAI's evaluators leave them.

    Args:
        classes: names of the classes, background first, or their number.
        spacing_mm: voxel size along D, H, W for KiTS23's surface Dice and surface distances; without it, Dice alone.
    """

    def __init__(self, classes: int | Sequence[str] = 3, spacing_mm: Sequence[float] | None = None) -> None:
        self.classes = classes if isinstance(classes, int) else len(classes)
        self.hierarchy = None if isinstance(classes, int) or scoring_of(classes) is not KITS23 else KITS23
        self.spacing_mm = spacing_mm
        self.name = "mean_dice"
        self.by_case: dict[str, dict[str, float | None]] = {}

    def attach(self, engine: Engine, name: str = "mean_dice", *_: Any) -> None:
        self.name = name
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.compute)

    def reset(self) -> None:
        self.by_case = {}

    def update(self, engine: Engine) -> None:
        cases: Any = engine.state.batch
        outputs: Any = engine.state.output
        for case, output in zip(cases, outputs, strict=True):
            self.by_case[str(case["case_id"])] = self._scores(output["pred"], output["label"])

    def _scores(self, predicted: torch.Tensor, label: torch.Tensor) -> dict[str, float | None]:
        if self.hierarchy is None:
            scores = dice_scores(predicted, label, self.classes)
            by_class = {f"L{number}_dice": score for number, score in enumerate(scores, start=1)}
            return {self.name: sum(scores) / len(scores), **by_class}
        first, second = (volume.reshape(volume.shape[-3:]).cpu().numpy() for volume in (predicted, label))
        named = self.hierarchy.scores(first, second, self.spacing_mm)
        return {self.name: self.hierarchy.mean_dice(named), **named}

    def compute(self, engine: Engine) -> None:
        self.by_case = distributed.gather_by_case(self.by_case)
        engine.state.metrics.update({name: value for name, value in self.table.mean.items() if value is not None})

    @property
    def table(self) -> Scores:
        """Return the scores by case under their names; each case's mean Dice comes first.

        Cases are sorted and summed in float64, so that a mean is the same for any number of processes.
        """
        return Scores(dict(sorted(self.by_case.items())))


class ScoreWriter:
    """Print the means of a :class:`CaseScores` after its evaluation and write the scores by case.

    The first process alone writes ``scores.json`` and ``scores.csv``. The JSON names the device.

    Args:
        scores: attached to the same evaluator.
        directory: directory of both files.
        accelerator: device of the evaluation.
    """

    def __init__(self, scores: CaseScores, directory: str | Path, accelerator: Accelerator) -> None:
        self.scores, self.directory, self.accelerator = scores, Path(directory), accelerator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _: Engine) -> None:
        if distributed.rank() > 0:
            return
        table = self.scores.table
        about = self.accelerator.describe()
        table.write(self.directory / "scores.json", self.directory / "scores.csv", device=about)
        means = "  ".join(f"{name} {value:.5f}" for name, value in table.mean.items() if value is not None)
        print(f"{means}  (mean over {len(table.by_case)} cases)\n{self.directory / 'scores.json'}")


logger = logging.getLogger("kits_unet3d.evaluation")


def start(
    dataset_dir: str | Path,
    parameters: PreprocessingParameters,
    accelerator: Accelerator,
    evaluation_data: Sequence[Mapping[str, Any]],
) -> None:
    """Check that the evaluation cases are preprocessed as the model needs them, and log the device.

    There must be enough cases for all processes. Otherwise the program ends with one error message and exit code 2.
    """
    with errors_reported():
        require_data(dataset_dir, parameters, evaluation_data)
    logger.info(device_line(accelerator.describe()))
