"""Draw a comparison's figures: loss by time, scores by case, and each recipe's best and worst case."""

from pathlib import Path

import matplotlib.figure
import numpy as np

from kits_unet3d.pipeline.evaluation.comparison import Runs
from kits_unet3d.pipeline.report.pictures import picture_of_files

#: Steps over which the loss is averaged, since single steps vary strongly.
WINDOW = 25


def draw(out: Path, runs: dict[tuple[str, str], Runs], seeds: list[int]) -> None:
    """Draw all figures into `out/figures`."""
    directory = out / "figures"
    directory.mkdir(exist_ok=True)
    loss_by_time(out, sorted({recipe for recipe, _ in runs}), seeds, directory / "loss.png")
    scores_by_case(runs, directory / "cases.png")
    for (recipe, variant), run in runs.items():
        if variant == "plain":
            best_and_worst(out, recipe, run, seeds[0], directory)


def loss_by_time(out: Path, recipes: list[str], seeds: list[int], path: Path) -> None:
    """Plot the loss, averaged over some steps: a panel per recipe, since losses differ, and a line per seed."""
    figure = matplotlib.figure.Figure(figsize=(4 * len(recipes), 3.2), layout="constrained")
    for column, recipe in enumerate(recipes):
        axes = figure.add_subplot(1, len(recipes), column + 1)
        for seed in seeds:
            file = out / recipe / f"seed_{seed}" / "curves" / "loss.csv"
            if not file.is_file():
                continue
            seconds, loss = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).T
            width = min(WINDOW, len(loss))
            smooth = np.convolve(loss, np.full(width, 1 / width), "valid")
            axes.plot(seconds[width - 1 :] / 60, smooth, linewidth=1, label=f"seed {seed}")
        axes.set_title(recipe)
        axes.set_xlabel("minutes")
        axes.set_ylabel("training loss")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def scores_by_case(runs: dict[tuple[str, str], Runs], path: Path) -> None:
    """Plot kidney and tumour Dice: a dot is a case's mean over the seeds, a bar the mean over cases."""
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    labels = [f"{recipe}\n{variant}" for recipe, variant in runs]
    for column, structure in enumerate(("kidney", "tumour")):
        axes = figure.add_subplot(1, 2, column + 1)
        values = np.array([run.table(f"{structure}_dice").mean(axis=0) for run in runs.values()])
        axes.plot(values, ".", alpha=0.6)
        axes.plot(values, "-", color="0.8", linewidth=0.6, zorder=0)
        axes.plot(values.mean(axis=1), "_", color="black", markersize=22)
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.set_ylabel(f"{structure} Dice")
    figure.savefig(path, dpi=120)


def best_and_worst(out: Path, recipe: str, run: Runs, seed: int, directory: Path) -> None:
    """Draw the cases with the highest and the lowest tumour Dice, as mean over the seeds."""
    order = np.argsort(run.table("tumour_dice").mean(axis=0))
    for name, position in (("worst", order[0]), ("best", order[-1])):
        case = run.cases[position]
        masks = out / recipe / f"seed_{seed}" / "plain"
        mask = next(path for path in (masks / f"{case}_seg.nii.gz", masks / f"{case}.nii.gz") if path.is_file())
        raw = out / "raw" / case
        picture_of_files(raw / "imaging.nii.gz", mask, directory / f"{recipe}_{name}.png", raw / "segmentation.nii.gz")
