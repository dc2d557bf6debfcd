"""Run the command ``kits-unet3d train``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..runtime.files import require_writable
from ..runtime.paths import config_file
from . import Outcome, require_existing

HELP = "train on all training cases, or on those outside one fold"
EXAMPLE = "kits-unet3d train --fold 0 --dataset-dir path/to/preprocessed -o path/to/fold_0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output-dir", required=True, help="directory for models, curves and result.json")
    parser.add_argument(
        "--config",
        nargs="+",
        type=config_file,
        default=[config_file("train")],
        help="the bundle's train.json, and configurations that override it; files, or names of the bundle's",
    )
    parser.add_argument(
        "--dataset-dir", default=None, help="directory of the preprocessed cases; default: from the configuration"
    )
    parser.add_argument(
        "--fold", type=int, default=None, help="fold to hold out, from 0: evaluate it, and do not train on it"
    )
    parser.add_argument("--folds", type=int, default=None, help="number of folds; default: from the configuration")
    parser.add_argument(
        "--weights", default=None, help="checkpoint or .safetensors whose weights a new run starts from (fine-tuning)"
    )
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in --output-dir")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="set other keys of the configuration, such as epochs=100",
    )


def run(arguments: argparse.Namespace) -> Outcome:
    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.dataset_dir, *arguments.config)
    require_writable(arguments.output_dir)

    from monai.bundle import ConfigWorkflow

    from ..data import Index, folds_of, require_fold
    from ..evaluation import CaseScores
    from ..evaluation.fold_results import RESULT_FILE, FoldResult
    from ..runtime.distributed import gather, rank
    from ..runtime.overrides import protected

    overrides = parse_settings(arguments.set, read_configs(arguments.config))
    directory = Path(arguments.output_dir)
    overrides |= {
        "ckpt_dir": str(directory / "models"),
        "output_dir": str(directory / "eval"),
        "resume": arguments.resume,
    }
    for name in ("dataset_dir", "fold", "folds", "weights"):
        if getattr(arguments, name) is not None:
            overrides[name] = getattr(arguments, name)
    overrides = {key: protected(value) for key, value in overrides.items()}
    workflow = ConfigWorkflow(list(arguments.config), logging_file=False, workflow_type="train", **overrides)
    parser = workflow.parser
    fold, folds = parser.get_parsed_content("fold"), parser.get_parsed_content("folds")
    if fold is not None:  # checked here, so that --json reports it too; the configuration would end the program
        require_fold(fold, folds)
        folds_of(Index.read(parser.get_parsed_content("dataset_dir")).cases, folds)
    workflow.initialize()
    workflow.run()
    scores: CaseScores = parser.get_parsed_content("validate#key_metric#mean_dice")
    trained, evaluated = (
        [case["case_id"] for case in parser.get_parsed_content(f"{part}#dataset#data")]
        for part in ("train", "validate")
    )
    shares = gather(evaluated)  # evaluation cases are split among processes, training cases are not
    result = FoldResult(
        directory,
        fold,
        folds,
        sorted(trained),
        sorted(case for share in shares for case in share),
        scores.table.as_dict(),
    )
    # A run that continues with its time used up is not evaluated again; its result stays.
    if rank() == 0 and (result.scores["cases"] or not (directory / RESULT_FILE).is_file()):
        result.write()
    workflow.finalize()
    mean = result.scores["mean"]
    print("  ".join(f"{name} {value:.5f}" for name, value in mean.items() if value is not None))
    return Outcome({"output_dir": str(directory), "fold": fold, "folds": folds, "mean": mean})


def parse_settings(given: list[str], contents: list[dict[str, Any]]) -> dict[str, Any]:
    """Parse ``["epochs=100", "channels=[8,16]"]`` into keys and values of the types in the configurations.

    Raises:
        UsageError: for a key that no configuration reads, or a value of another type.
    """
    from ..runtime.configuration import unknown_key, unread_key
    from ..runtime.errors import UsageError
    from ..runtime.overrides import require_types, typed

    settings: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--set {text!r}: must be KEY=VALUE, such as epochs=100")
        settings[key] = value
    if found := unread_key(contents, settings):
        raise UsageError(unknown_key(*found))
    require_types(contents)
    return {key: typed(key, value, contents) for key, value in settings.items()}


def read_configs(configs: list[str]) -> list[dict[str, Any]]:
    """Return the contents of configurations (JSON); raise a UsageError if one cannot be read."""
    from ..runtime.errors import UsageError

    try:
        return [json.loads(Path(config).read_text(encoding="utf-8")) for config in configs]
    except (OSError, ValueError) as error:
        raise UsageError(f"{', '.join(configs)}: not a usable configuration ({error})") from error
