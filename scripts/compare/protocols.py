"""Run the experiments: a comparison of recipes, an ablation, a cross-validation, and a detection of lesions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ours
from nnunet_recipe import NnUNet
from plan import Plan
from steps import digest, heading, kits, link, make_file
from summary import summarise, summarise_detection

from kits_unet3d.pipeline.benchmark.report import require_drawing
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.files import write_json

#: Options of `kits-unet3d predict` for each use of single networks.
OPTIONS = {"plain": (), "tta": ("--tta",), "reference_windows": ("--windows", "reference")}


def configurations(plan: Plan, name: str, directory: Path) -> list[str | Path]:
    """Write a recipe's overlay; return its configurations, of which later ones override earlier ones."""
    overlay = directory / f"{name}.json"
    write_json(overlay, plan.recipes[name].overlay)
    return [*plan.recipes[name].configs, overlay]


def compare(plan: Plan) -> None:
    """Train each recipe on all training cases, and score its networks and their ensemble on the evaluation cases."""
    require_drawing()
    cases = plan.cases
    for seed in plan.seeds:
        for name, recipe in plan.recipes.items():
            heading(f"{name}, seed {seed}")
            directory, uses = cases.out / name / f"seed_{seed}", [use for use in recipe.variants if use != "ensemble"]
            if recipe.nnunet_channels is not None:
                nnunet = NnUNet(cases, name, recipe.nnunet_channels)
                nnunet.preprocess()
                nnunet.train(directory, minutes=plan.minutes, seed=seed)
                for use in uses:
                    nnunet.predict(directory, use)
                continue
            ours.train(cases, directory, configurations(plan, name, cases.out), minutes=plan.minutes, seed=seed)
            for use in uses:
                ours.predict(cases, directory / use, {cases.scans: [directory / ours.MODEL]}, *OPTIONS[use])
    for name, recipe in plan.recipes.items():
        if "ensemble" in recipe.variants and len(plan.seeds) > 1:
            models = [cases.out / name / f"seed_{seed}" / ours.MODEL for seed in plan.seeds]
            masks = cases.out / name / f"ensemble_{'_'.join(map(str, plan.seeds))}"
            ours.predict(cases, masks, {cases.scans: models})
    heading("tables and figures")
    summarise(cases.out, list(plan.recipes), plan.seeds)


def ablate(plan: Plan) -> None:
    """Train each recipe on the cases outside one fold, and score it on the fold.

    The baseline's training is that of a cross-validation in the same directory.
    """
    cases = plan.cases
    directory, scans = cases.out / f"fold_{plan.fold}", cases.held_out(plan.fold, plan.folds)
    for seed in plan.seeds:
        for name in plan.recipes:
            heading(f"{name}, seed {seed}")
            place = directory / name / f"seed_{seed}"
            training = place / "training"
            if name == plan.baseline:
                training = cases.out / "cross_validation" / "folds" / f"seed_{seed}" / f"fold_{plan.fold}"
            configs, fold = configurations(plan, name, directory), (plan.fold, plan.folds)
            ours.train(cases, training, configs, minutes=plan.minutes, seed=seed, fold=fold)
            link(place / "curves", training / "eval")
            ours.predict(cases, place / "plain", {scans: [training / ours.MODEL]})
    heading("tables")
    summarise(directory, list(plan.recipes), plan.seeds, against=plan.baseline, figures=False)


def cross_validate(plan: Plan) -> None:
    """Train one recipe outside each fold, and choose the post-processing on the folds' cases.

    The folds' networks together predict the evaluation cases, with and without that post-processing. Each network
    predicts the cases that it has not seen, with the default sliding windows and the reference's.
    """
    if len(plan.recipes) != 1:
        raise UsageError(f"a cross-validation has one recipe, got {', '.join(plan.recipes)}")
    ((name, recipe),) = plan.recipes.items()
    cases, folds = plan.cases, range(plan.folds)
    place = cases.out / "cross_validation"
    configs = configurations(plan, name, place)
    for seed in plan.seeds:
        directory = place / "folds" / f"seed_{seed}"
        trainings = [directory / f"fold_{fold}" for fold in folds]
        for fold in folds:
            heading(f"fold {fold}, seed {seed}")
            held = (fold, plan.folds)
            ours.train(cases, trainings[fold], configs, minutes=plan.minutes, seed=seed, fold=held)
        models = [training / ours.MODEL for training in trainings]
        heading(f"choice, seed {seed}")
        choice = directory / "choice" / "postprocessing.json"
        results = [training / "result.json" for training in trainings]
        chosen = {"networks": digest(*models), "results": digest(*results), "cases": cases.digest}
        command = ("folds", *trainings, "--data-dir", cases.out / "raw", "-o", choice.parent)
        make_file(choice, chosen, partial(kits, *command))
        heading(f"evaluation cases, seed {seed}")
        ours.predict(cases, directory / "plain", {cases.scans: models})
        if "postprocessed" in recipe.variants:
            ours.predict(cases, directory / "postprocessed", {cases.scans: models}, "--postprocessing", choice)
        heading(f"held out cases, seed {seed}")
        held_out = {cases.held_out(fold, plan.folds): [models[fold]] for fold in folds}
        for use in [use for use in recipe.variants if use in OPTIONS]:
            ours.predict(cases, place / "held_out" / name / f"seed_{seed}" / use, held_out, *OPTIONS[use])
    heading("tables")
    summarise(place, ["folds"], plan.seeds, figures=False)
    summarise(place / "held_out", [name], plan.seeds, figures=False)


def detect(plan: Plan) -> None:
    """Train each recipe on all training cases, and score the evaluation cases by lesions too."""
    cases = plan.cases
    for seed in plan.seeds:
        for name in plan.recipes:
            heading(f"{name}, seed {seed}")
            directory = cases.out / name / f"seed_{seed}"
            ours.train(cases, directory, configurations(plan, name, cases.out), minutes=plan.minutes, seed=seed)
            ours.predict(cases, directory / "plain", {cases.scans: [directory / ours.MODEL]})
    heading("tables")
    summarise_detection(cases.out, list(plan.recipes), plan.seeds)


PROTOCOLS: dict[str, Callable[[Plan], None]] = {
    "comparison": compare,
    "ablation": ablate,
    "cross_validation": cross_validate,
    "detection": detect,
}
