"""Write the tables and figures of a comparison.

Reads `OUT/<recipe>/seed_<seed>/<variant>.json`, the scores of `kits-unet3d evaluate`, and writes `OUT/summary.json`,
`OUT/summary.md` and `OUT/figures/`. Variants are `plain`, `tta` (TTA by flipping), `postprocessed`,
`reference_windows`, and `ensemble` (the mean over the seeds' networks, `OUT/<recipe>/ensemble_<seeds>.json`). Missing
variants are left out.
"""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from kits_unet3d.pipeline.evaluation.comparison import Interval, Runs, paired_interval
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.files import whole_file, write_json

#: Scores by name: the heading, and whether a higher score is better.
SCORES = {
    "kidney_dice": ("kidney Dice", True),
    "tumour_dice": ("tumour Dice", True),
    "kidney_surface_dice_3mm": ("kidney surface Dice, 3 mm", True),
    "tumour_surface_dice_3mm": ("tumour surface Dice, 3 mm", True),
    "kidney_hd95_mm": ("kidney HD95, mm", False),
    "tumour_hd95_mm": ("tumour HD95, mm", False),
}
VARIANTS = ("plain", "tta", "postprocessed", "reference_windows", "ensemble")


def read_runs(out: Path, recipes: list[str], seeds: list[int]) -> dict[tuple[str, str], Runs]:
    """Read the scores by recipe and variant that every seed has.

    Raises:
        UsageError: if scores cannot be used, or are not of the same cases.
    """
    runs: dict[tuple[str, str], Runs] = {}
    for recipe in recipes:
        for variant in VARIANTS:
            files = [out / recipe / f"seed_{seed}" / f"{variant}.json" for seed in seeds]
            if variant == "ensemble":
                files = [out / recipe / f"ensemble_{'_'.join(map(str, seeds))}.json"]
            if all(file.is_file() for file in files):
                runs[recipe, variant] = Runs.read(f"{recipe} {variant}", files)
    for name, run in runs.items():
        first = next(iter(runs))
        if run.cases != runs[first].cases:
            raise UsageError(
                f"{out}: {' '.join(name)} has scores of {', '.join(run.cases)}, but {' '.join(first)} of "
                f"{', '.join(runs[first].cases)}; score the same cases"
            )
    return runs


def pairs(names: list[tuple[str, str]], against: str | None = None) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pair recipes of the same variant, `dynunet_ds` first, and a recipe's variants with its `plain` one.

    With `against`, pair each other recipe with that one.
    """
    if against is not None:
        return [(name, (against, name[1])) for name in names if name[0] != against and (against, name[1]) in names]
    found = []
    for first, second in combinations(names, 2):
        if first[0] == second[0] and first[1] == "plain":
            found.append((second, first))
        elif first[1] == second[1]:
            found.append((second, first) if second[0] == "dynunet_ds" else (first, second))
    return found


def number(value: float | None, name: str, *, sign: bool = False) -> str:
    if value is None or np.isnan(value):
        return "–"
    return format(value, ("+" if sign else "") + (".3f" if SCORES[name][1] else ".1f"))


@dataclass(frozen=True)
class Difference:
    """Describe the difference of two recipes, or of two uses of one recipe's networks.

    It holds the intervals by score, and whether both sides have several seeds.
    """

    by_score: dict[str, Interval]
    seeds: bool

    def sure(self, name: str) -> bool:
        """Return whether the interval excludes 0 and rests on enough cases and seeds.

        With fewer than six cases the bootstrap's 95 % are close to the whole range. A single training or ensemble does
        not show how another would have ended.
        """
        interval = self.by_score[name]
        return self.seeds and interval.cases >= 6 and interval.verdict != "open"


def differences(runs: dict[tuple[str, str], Runs], against: str | None = None) -> dict[str, Difference]:
    """Compare each pair (`dynunet_ds plain − mlperf plain`); leave out a score that no common case has."""
    found = {}
    for first, second in pairs(list(runs), against):
        one, other = runs[first], runs[second]
        same = first[0] == second[0] and len(one.runs) == len(other.runs)
        by_score = {}
        for name in SCORES:
            tables = one.table(name), other.table(name)
            if any(np.isfinite(np.concatenate(tables)).all(axis=0)):
                by_score[name] = paired_interval(*tables, same_networks=same)
        several = min(len(one.runs), len(other.runs)) > 1
        found[f"{' '.join(first)} − {' '.join(second)}"] = Difference(by_score, several)
    return found


def means_table(runs: dict[tuple[str, str], Runs]) -> list[str]:
    """Tabulate the mean over cases and seeds, and the standard deviation over seeds of the mean over cases.

    Add the number of cases if some lack the score in a seed.
    """
    lines = ["| recipe | " + " | ".join(heading for heading, _ in SCORES.values()) + " |", "|---" * 7 + "|"]
    for (recipe, variant), run in runs.items():
        cells = [
            f"{number(run.mean(name), name)} ± {number(run.spread(name), name)}"
            if run.spread(name) is not None
            else number(run.mean(name), name)
            for name in SCORES
        ]
        for position, name in enumerate(SCORES):
            if 0 < run.counted(name) < len(run.cases):
                cells[position] += f" [{run.counted(name)} of {len(run.cases)}]"
        lines.append(f"| {recipe}, {variant} | " + " | ".join(cells) + " |")
    return lines


def differences_table(found: dict[str, Difference], cases: int) -> list[str]:
    """Tabulate the difference of means with its interval, bold where it is sure.

    Add the number of cases if it does not rest on all.
    """
    lines = ["| difference | " + " | ".join(heading for heading, _ in SCORES.values()) + " |", "|---" * 7 + "|"]
    for pair, difference in found.items():
        cells = []
        for name in SCORES:
            if name not in difference.by_score:
                cells.append("–")
                continue
            interval = difference.by_score[name]
            low, high = (number(value, name, sign=True) for value in (interval.low, interval.high))
            text = f"{number(interval.difference, name, sign=True)} ({low} to {high})"
            if interval.cases < cases:
                text += f" [{interval.cases} of {cases}]"
            cells.append(f"**{text}**" if difference.sure(name) else text)
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    return lines


def cases_table(runs: dict[tuple[str, str], Runs]) -> list[str]:
    """Tabulate kidney and tumour Dice of each case, as mean over the seeds."""
    names = list(runs)
    lines = ["| case | " + " | ".join(f"{recipe}, {variant}" for recipe, variant in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for position, case in enumerate(runs[names[0]].cases):
        cells = []
        for name in names:
            kidney, tumour = (runs[name].table(f"{part}_dice")[:, position].mean() for part in ("kidney", "tumour"))
            cells.append(f"{kidney:.3f} / {tumour:.3f}")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return lines


def speeds(out: Path, recipes: list[str], seeds: list[int]) -> dict[str, dict[str, float]]:
    """Return median seconds per step, steps and seconds (means over seeds) from each recipe's `curves/loss.csv`."""
    found = {}
    for recipe in recipes:
        files = [out / recipe / f"seed_{seed}" / "curves" / "loss.csv" for seed in seeds]
        times = [np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)[:, 0] for file in files if file.is_file()]
        if times:
            steps = np.concatenate([np.diff(each, prepend=0.0) for each in times])
            found[recipe] = {
                "step_seconds": float(np.median(steps)),
                "steps": float(np.mean([len(each) for each in times])),
                "seconds": float(np.mean([each[-1] for each in times])),
            }
    return found


def speeds_table(found: dict[str, dict[str, float]]) -> list[str]:
    if not found:  # a cross-validation has its trainings in deeper directories
        return []
    lines = ["| recipe | s a step (median) | steps | s of training |", "|---|---|---|---|"]
    row = "| {} | {step_seconds:.2f} | {steps:.0f} | {seconds:.0f} |"
    return lines + [row.format(recipe, **values) for recipe, values in found.items()]


def detection_tables(scores: dict[str, Any]) -> list[list[str]]:
    """Tabulate the scores of structures, the lesions found by size, and what each lesion was taken for.

    Args:
        scores: content of the JSON that `kits-unet3d evaluate` wrote.
    """
    names = [name.removesuffix("_dice") for name in scores["mean"] if name.endswith("_dice")]
    names = [name for name in names if f"{name}_surface_dice" in scores["mean"]]
    structures = ["| structure | Dice | surface Dice |", "|---|---|---|"]
    structures += [
        f"| {n} | {scores['mean'][f'{n}_dice']:.3f} | {scores['mean'][f'{n}_surface_dice']:.3f} |" for n in names
    ]
    sizes = ["| lesion | diameter, mm | in the ground truth | found | false positives |", "|---|---|---|---|---|"]
    for name, by_size in scores["detection"]["by_size"].items():
        row = "| {} | {} | {lesions} | {found} | {false_positives} |"
        sizes += [row.format(name, size, **of) for size, of in by_size.items()]
    confusion = scores["detection"]["confusion"]
    others = list(confusion[next(iter(confusion))])
    taken = [
        "| ground truth | " + " | ".join(f"predicted as {n}" for n in others) + " |",
        "|---" * (len(others) + 1) + "|",
    ]
    taken += [f"| {name} | " + " | ".join(str(of.get(n, "–")) for n in others) + " |" for name, of in confusion.items()]
    return [structures, sizes, taken]


def summarise_detection(out: Path, recipes: list[str], seeds: list[int]) -> None:
    """Write and print `OUT/detection.md`, the tables of each training."""
    text = ""
    for recipe in recipes:
        for seed in seeds:
            file = out / recipe / f"seed_{seed}" / "plain.json"
            tables = detection_tables(json.loads(file.read_text(encoding="utf-8")))
            text += f"## {recipe}, seed {seed}\n\n" + "\n\n".join("\n".join(table) for table in tables) + "\n\n"
    text += "\n".join(speeds_table(speeds(out, recipes, seeds))) + "\n"
    with whole_file(out / "detection.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def summarise(
    out: Path, recipes: list[str], seeds: list[int], *, against: str | None = None, figures: bool = True
) -> None:
    """Write and print the tables, and draw the figures.

    Args:
        out: directory of the recipes' directories, and of what is written.
        against: the recipe that the others are compared with; None for all pairs.

    Raises:
        UsageError: if scores are missing, cannot be used, or are not of the same cases.
    """
    runs = read_runs(out, recipes, seeds)
    if not runs:
        raise UsageError(f"{out}: no scores of {', '.join(recipes)} there; complete the experiment first")
    found, speed = differences(runs, against), speeds(out, recipes, seeds)
    cases = len(next(iter(runs.values())).cases)
    parts = (means_table(runs), differences_table(found, cases), cases_table(runs), speeds_table(speed))
    text = "\n\n".join("\n".join(part) for part in parts if part) + "\n"
    with whole_file(out / "summary.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    content: dict[str, Any] = {
        "means": {
            " ".join(name): {score: {"mean": run.mean(score), "spread": run.spread(score)} for score in SCORES}
            for name, run in runs.items()
        },
        "differences": {
            pair: {
                score: {**interval._asdict(), "verdict": interval.verdict, "sure": difference.sure(score)}
                for score, interval in difference.by_score.items()
            }
            for pair, difference in found.items()
        },
        "speed": speed,
    }
    write_json(out / "summary.json", content)
    print(text)
    if figures:
        from figures import draw  # needs the extra figures

        draw(out, runs, seeds)
