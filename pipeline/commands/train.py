"""Run the command ``kits-unet3d train``."""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path
from typing import Any

from . import Outcome

HELP = "train on all training cases, or on those outside one fold"
EXAMPLE = "kits-unet3d train --fold 0 --dataset-dir path/to/preprocessed -o path/to/fold_0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output-dir", required=True, help="directory for models, curves and result.json")
    parser.add_argument(
        "--config",
        nargs="+",
        default=["bundle/configs/train.json"],
        help="the bundle's train.json, and configurations that override it",
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
    from monai.bundle import ConfigWorkflow

    from ..data import Index, folds_of, require_fold
    from ..evaluation import CaseScores
    from ..evaluation.fold_results import RESULT_FILE, FoldResult
    from ..runtime.distributed import gather, rank

    overrides = parse_settings(arguments.set)
    require_known(arguments.config, overrides)
    directory = Path(arguments.output_dir)
    overrides |= {
        "ckpt_dir": str(directory / "models"),
        "output_dir": str(directory / "eval"),
        "resume": arguments.resume,
    }
    for name in ("dataset_dir", "fold", "folds", "weights"):
        if getattr(arguments, name) is not None:
            overrides[name] = getattr(arguments, name)
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


def parse_settings(given: list[str]) -> dict[str, Any]:
    """Parse ``["epochs=100", "channels=[8,16]"]`` into keys and values; a value that is not Python stays a text."""
    from ..runtime.errors import UsageError

    settings: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--set {text!r}: must be KEY=VALUE, such as epochs=100")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = {"true": True, "false": False, "null": None}.get(value, value)
    return settings


def require_known(configs: list[str], overrides: dict[str, Any]) -> None:
    """Raise a UsageError if a configuration cannot be read, or a key is given that nothing reads."""
    from ..runtime.configuration import unknown_key, unread_key
    from ..runtime.errors import UsageError

    try:
        contents = [json.loads(Path(config).read_text(encoding="utf-8")) for config in configs]
    except (OSError, ValueError) as error:
        raise UsageError(f"{', '.join(configs)}: not a usable configuration ({error})") from error
    if found := unread_key(contents, overrides):
        raise UsageError(unknown_key(*found))
