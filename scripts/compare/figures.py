"""Figures of a comparison: loss by time, scores by case, and the best and the worst case of each recipe."""

from pathlib import Path

import matplotlib.figure
import numpy as np

from kits_unet3d.pipeline.evaluation.comparison import Runs
from kits_unet3d.pipeline.report.overlays import picture_of_files

#: Steps over which the loss is averaged; single steps jump.
WINDOW = 25


def draw(out: Path, runs: dict[tuple[str, str], Runs], seeds: list[int]) -> None:
    """Everything into `out/figures`."""
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    loss_by_time(out, sorted({recipe for recipe, _ in runs}), seeds, folder / "loss.png")
    scores_by_case(runs, folder / "cases.png")
    for (recipe, variant), run in runs.items():
        if variant == "plain":
            best_and_worst(out, recipe, run, seeds[0], folder)


def loss_by_time(out: Path, recipes: list[str], seeds: list[int], path: Path) -> None:
    """A panel a recipe, for their losses are not the same; a line a seed, the mean over some steps."""
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
    """Dice of kidney and tumour: a dot for each case, the mean over the seeds; the bar is the mean over cases."""
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


def best_and_worst(out: Path, recipe: str, run: Runs, seed: int, folder: Path) -> None:
    """Pictures of the cases with the highest and the lowest tumour Dice in the mean over the seeds."""
    order = np.argsort(run.table("tumour_dice").mean(axis=0))
    for name, position in (("worst", order[0]), ("best", order[-1])):
        case = run.cases[position]
        masks = out / recipe / f"seed_{seed}" / "plain"
        mask = next(path for path in (masks / f"{case}_seg.nii.gz", masks / f"{case}.nii.gz") if path.is_file())
        raw = out / "raw" / case
        picture_of_files(raw / "imaging.nii.gz", mask, folder / f"{recipe}_{name}.png", raw / "segmentation.nii.gz")
