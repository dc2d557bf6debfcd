"""Compare two training recipes on the same cases: means, spread over seeds, and the interval of their difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from ..runtime.errors import UsageError

#: Scores of one training by case, as ``kits-unet3d evaluate --output`` writes them under ``cases``.
ByCase = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Runs:
    """Hold the scores of one recipe's trainings.

    Attributes:
        name: name of the recipe.
        runs: scores by case, one mapping per seed.
    """

    name: str
    runs: Sequence[ByCase]

    @classmethod
    def read(cls, name: str, files: Sequence[str | Path]) -> Runs:
        """Read the JSON files that ``kits-unet3d evaluate --output`` wrote, one per seed.

        Raises:
            UsageError: if a file cannot be used or lists a failed case, or if the files have different cases.
        """
        runs: list[ByCase] = []
        for file in files:
            try:
                content = json.loads(Path(file).read_text(encoding="utf-8"))
                runs.append(content["cases"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{file}: not a score file of `kits-unet3d evaluate` ({error})") from error
            if content.get("failed"):
                raise UsageError(f"{file}: {', '.join(content['failed'])} failed; score all cases first")
            if not runs[-1] or runs[-1].keys() != runs[0].keys():
                raise UsageError(f"{file}: has the cases {sorted(runs[-1])}, but the first file {sorted(runs[0])}")
        if not runs:
            raise UsageError(f"{name}: scores are missing")
        return cls(name, runs)

    @property
    def cases(self) -> list[str]:
        return sorted(self.runs[0])

    def table(self, score: str) -> NDArray[np.float64]:
        """Return a score as (seeds, cases), cases in order of their names; NaN where it is undefined.

        Raises:
            UsageError: if a case lacks the score.
        """
        try:
            rows = [[run[case][score] for case in self.cases] for run in self.runs]
        except KeyError as error:
            raise UsageError(f"{self.name}: a case lacks the score {error.args[0]}") from error
        return np.array(rows, dtype=np.float64)

    def counted(self, score: str) -> int:
        """Count the cases that have the score in every seed."""
        return int((~np.isnan(self.table(score)).any(axis=0)).sum())

    def mean(self, score: str) -> float | None:
        """Return the mean over seeds of the mean over the cases that have the score; None if no case has it."""
        means = self._by_seed(score)
        return float(np.mean(means)) if means else None

    def spread(self, score: str) -> float | None:
        """Return the sample standard deviation (n - 1) over seeds of the mean over cases; None for a single seed."""
        means = self._by_seed(score)
        return float(np.std(means, ddof=1)) if len(means) > 1 else None

    def _by_seed(self, score: str) -> list[float]:
        rows = (row[~np.isnan(row)] for row in self.table(score))
        return [float(row.mean()) for row in rows if row.size]


class Interval(NamedTuple):
    """Hold a difference of means, first minus second recipe, and the interval around it.

    Attributes:
        difference, low, high: in the score's unit.
        cases: number of cases with a score.
    """

    difference: float
    low: float
    high: float
    cases: int

    @property
    def verdict(self) -> str:
        """Return ``"above"``, ``"below"``, or ``"open"`` where the interval contains 0."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "open"


def paired_interval(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    same_networks: bool = False,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap the difference of two recipes' means over seeds and cases (expanded percentile interval).

    Each resample draws cases with replacement, the same for both recipes, since a hard case is hard for both. It also
    draws the seeds of each recipe with replacement. These draws are independent of each other, because equal seeds of
    different trainings are unrelated. With ``same_networks`` they are the same for both. Cases without a score (NaN) in
    any seed are left out.

    The mean of n drawn cases has only (n - 1) / n of the variance, and few cases have longer tails than a normal
    distribution. The interval therefore uses wider percentiles than ``level``. For normally distributed differences it
    equals the interval of Student's t. Seeds are not corrected in this way: with a single seed, the interval does not
    contain the variation between seeds.

    Args:
        first, second: (seeds, cases), the same cases in the same order; the numbers of seeds may differ.
        same_networks: both use the same training, seed by seed, in two ways; their seeds are then drawn alike.
        resamples: number of resamples.
        level: confidence level, 0 to 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: if the shapes do not match, no case remains, or a setting is out of range.

    Source: Hesterberg, What teachers should know about the bootstrap, https://doi.org/10.1080/00031305.2015.1089789.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"both must be (seeds, cases) of the same cases, got {first.shape} and {second.shape}")
    if same_networks and len(first) != len(second):
        raise ValueError(f"the same networks must have as many seeds, got {len(first)} and {len(second)}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be positive and level between 0 and 1, got {resamples} and {level}")
    defined = ~np.isnan(first).any(axis=0) & ~np.isnan(second).any(axis=0)
    count = int(defined.sum())
    if not count or not len(first) or not len(second):
        raise ValueError("no case has a score in every seed of both recipes")
    first, second = first[:, defined], second[:, defined]
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for number in range(resamples):
        cases = rng.integers(count, size=count)
        drawn_first = rng.integers(len(first), size=len(first))
        drawn_second = drawn_first if same_networks else rng.integers(len(second), size=len(second))
        means = [first[np.ix_(drawn_first, cases)].mean(), second[np.ix_(drawn_second, cases)].mean()]
        drawn[number] = means[0] - means[1]
    tail = (1 - level) / 2
    if count > 1:
        tail = norm.cdf(np.sqrt(count / (count - 1)) * student.ppf(tail, count - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(first.mean() - second.mean()), float(low), float(high), count)
