"""Train, predict and score with this project."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from real_cases import Cases
from steps import digest, kits, make_directory, make_file, run

#: Written last by a training. Scored weights are always these, never those with the best score, because the scored
#: cases must not influence a training.
MODEL = Path("models/model_final.pt")


def train(
    cases: Cases, directory: Path, configs: Sequence[str | Path], *, minutes: float, seed: int,
    fold: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Train for exactly these minutes, without the cases of a fold if given (`fold` 0 of 5 is `(0, 5)`).

    The loss goes to `curves/loss.csv`; with a fold to `eval/loss.csv`, and its scores to `result.json`.
    """
    configs = ["bundle/configs/train.json", *configs, "scripts/compare/deadline.json"]
    settings = {"minutes": minutes, "seed": seed, "configurations": digest(*configs), "cases": cases.digest}
    if fold is not None:
        settings["fold"] = "{} of {}".format(*fold)
    keys = {
        "device_name": "cpu", "seed": seed, "max_minutes": minutes, "spacing_mm": cases.spacing_mm,
        "roi_size": cases.roi_size,
    }  # fmt: skip
    preprocessed = cases.out / "preprocessed"
    here = os.pathsep.join([str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def training() -> None:
        if fold is None:
            action = ["monai.bundle", "run", "training", "--config_file", [str(config) for config in configs]]
            keys.update(dataset_dir=preprocessed, ckpt_dir=directory / "models", output_dir=directory / "curves")
            given = [word for key, value in keys.items() for word in (f"--{key}", value)]
            run(sys.executable, "-W", "ignore", "-m", *action, *given, PYTHONPATH=here)
        else:
            parts = ["--fold", fold[0], "--folds", fold[1], "--dataset-dir", preprocessed, "--config", *configs]
            given = [f"{key}={value}" for key, value in keys.items()]
            kits("train", "-o", directory, *parts, "--set", *given, PYTHONPATH=here)

    make_directory(directory, str(MODEL) if fold is None else "result.json", settings, training)


def predict(cases: Cases, masks: Path, scans: Mapping[Path, Sequence[Path]], *options: str | Path) -> None:
    """Predict directories of scans, each by the mean of some checkpoints, and score all masks.

    Args:
        masks: directory to write; its scores go to a file beside it.
        scans: checkpoints by directory of scans.
        options: of `kits-unet3d predict`; files are paths.
    """
    settings = {
        "networks": digest(*(checkpoint for checkpoints in scans.values() for checkpoint in checkpoints)),
        "cases": cases.digest,
        "options": [digest(option) if isinstance(option, Path) else option for option in options],
    }

    def prediction() -> None:
        for directory, checkpoints in scans.items():
            networks = [word for checkpoint in checkpoints for word in ("--checkpoint", checkpoint)]
            kits("predict", directory, "-o", masks, *networks, "--no-html-report", *options)
        score(cases, masks)

    make_file(masks.with_suffix(".json"), settings, prediction)


def score(cases: Cases, masks: Path) -> None:
    """Score a directory of masks into files beside it."""
    labels = ("--labels", cases.out / "raw", "--allow-missing")
    kits("evaluate", "--predictions", masks, *labels, "-o", masks.with_suffix(".json"))
