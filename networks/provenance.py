"""Read from the content of a checkpoint what its network was trained on, for how long, and how well it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, TypeGuard

#: Names that MLPerf's training gives its scores; its kidney is without the tumour.
REFERENCE_SCORES = {"kidney_dice": "L1 dice", "tumour_dice": "L2 dice", "mean_dice": "mean_dice"}
#: A larger number of epochs is taken for damage.
MOST_EPOCHS = 10**9


class Training(NamedTuple):
    """Hold what a checkpoint contains on its training.

    Attributes:
        trained_on: training data; empty if unknown.
        epochs: number of epochs, or None.
        scores: scores of 0 to 1 by name.
    """

    trained_on: str
    epochs: int | None
    scores: dict[str, float]

    def facts(self, classes: Sequence[str] = ()) -> list[str]:
        """Return training data, ``classes`` above the background, epochs and score, each as a phrase."""
        facts = [f"trained on {self.trained_on}" if self.trained_on else "training data unknown"]
        if classes:
            facts.append(f"classes {', '.join(classes[1:-1])}{' and ' if classes[2:] else ''}{classes[-1]}")
        facts.append("epochs unknown" if self.epochs is None else f"{self.epochs} epochs")
        score = self.scores.get("mean_dice")
        return [*facts, "mean_dice unknown" if score is None else f"mean_dice {score:.4f}"]


def training_of(content: Mapping[str, Any]) -> Training:
    """Return what the content of a checkpoint, or of the JSON beside converted weights, contains on its training.

    MLPerf's training stores the metrics of its best epoch beside the weights, all as floats or numpy numbers.
    """
    epoch, epochs = content.get("epoch"), None
    if _is_number(epoch) and 0 <= epoch < MOST_EPOCHS and int(epoch) == epoch:
        epochs = int(epoch)
    scores = content.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        scores = content.get("best")
    if not isinstance(scores, Mapping):
        of_reference = {name: content.get(key) for name, key in REFERENCE_SCORES.items()}
        scores = of_reference if scores is None else {"mean_dice": scores}
    found = {str(name): float(score) for name, score in scores.items() if _is_number(score) and 0 <= score <= 1}
    trained_on = printable(content.get("trained_on")) or printable(dataset_of(content))
    return Training(trained_on, epochs, {n: s for n, s in found.items() if printable(n)})


def dataset_of(content: Mapping[str, Any]) -> str | None:
    """Return the name of the data set that a checkpoint was trained on, if it contains one."""
    configuration = content.get("configuration")
    dataset = configuration.get("dataset") if isinstance(configuration, Mapping) else None
    return dataset if isinstance(dataset, str) and dataset.isprintable() else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def printable(text: Any) -> str:
    """Return a text from a file if it is one line of text, else ""; a terminal would act on control characters."""
    return text if isinstance(text, str) and text.isprintable() else ""
