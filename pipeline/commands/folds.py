"""Run the command ``kits-unet3d folds``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..runtime.files import require_writable, write_json, writing_into
from . import Outcome, require_existing

HELP = "summarise a cross-validation, and choose the post-processing on the held-out cases"
EXAMPLE = "kits-unet3d folds path/to/fold_* --data-dir path/to/kits19/data -o path/to/choice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", nargs="+", help="output directories of `kits-unet3d train --fold`, one for each fold"
    )
    parser.add_argument("--data-dir", required=True, help="directory of the raw cases, as for `prepare`")
    parser.add_argument("-o", "--output-dir", required=True, help="directory for folds.json and postprocessing.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, or the name of an accelerator")
    precisions = ("auto", "fp32", "tf32", "bf16", "fp16")
    parser.add_argument("--precision", choices=precisions, default="fp32", help="precision of the network")
    backends = ("auto", "openvino", "compiled", "channels_last", "eager")
    parser.add_argument("--backend", choices=backends, default="auto", help="inference backend")
    parser.add_argument(
        "--max-memory", default=None, help="refuse scans that need more, such as 8GB; default: the free memory"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    # Checked before torch is imported, which takes seconds.
    require_existing(*arguments.directory, arguments.data_dir)
    require_writable(arguments.output_dir)

    from dataclasses import asdict

    from ..data import classes_in, find_cases
    from ..device import resolve
    from ..evaluation import Scores, scoring_of
    from ..evaluation.cross_validation import choose_postprocessing, out_of_fold_masks, score_masks
    from ..evaluation.fold_results import read_results, require_alike
    from ..inference import PostProcessing
    from ..runtime.memory import memory_limit

    results = read_results(arguments.directory)
    require_alike(results)
    cases = {case.case_id: case for case in find_cases(arguments.data_dir)[1]}
    accelerator = resolve(arguments.device, arguments.precision)
    limit = memory_limit(arguments.max_memory)
    masks = {result.fold: out_of_fold_masks(result, cases, accelerator, arguments.backend, limit) for result in results}
    scoring = scoring_of(classes_in(arguments.data_dir))
    every = {case: path for fold in masks.values() for case, path in fold.items()}
    choice = choose_postprocessing(every, cases, scoring=scoring)
    plain = choice.scores[PostProcessing()]
    unseen = choice.unseen(list(masks.values()))
    if scoring.tolerances_mm:  # a challenge whose surface Dice belongs to the result
        plain = score_masks(every, cases, dict.fromkeys(every, PostProcessing()), scoring)
        unseen = unseen and score_masks(every, cases, choice.chosen_by_others(list(masks.values())), scoring)
    judged = {"as_predicted": plain} if unseen is None else {"as_predicted": plain, "post_processed": unseen}
    by_fold = {
        str(fold): {
            name: Scores({case: scores.by_case[case] for case in held_out}).mean for name, scores in judged.items()
        }
        for fold, held_out in masks.items()
    }
    summary: dict[str, Any] = {
        "folds": results[0].folds,
        "missing": sorted(set(range(results[0].folds)) - set(masks)),
        "by_fold": by_fold,
        **{name: scores.as_dict() for name, scores in judged.items()},
        "postprocessing": asdict(choice.best),
        "tried": [{**asdict(candidate), "mean_dice": mean} for candidate, mean in choice.means.items()],
    }
    out = Path(arguments.output_dir)
    with writing_into(out):
        write_json(out / "folds.json", summary)
        write_json(out / "postprocessing.json", asdict(choice.best))
    for fold, means in by_fold.items():
        print(_row(f"fold {fold}", means["as_predicted"]))
    for name, scores in judged.items():
        print(_row(name.replace("_", " "), scores.mean))
    if summary["missing"]:
        print(f"of {results[0].folds} folds {', '.join(map(str, summary['missing']))} are missing")
    print(out / "postprocessing.json")
    return Outcome(summary)


def _row(name: str, means: dict[str, float | None]) -> str:
    return f"{name:<15}" + "  ".join(f"{key} {value:.4f}" for key, value in means.items() if value is not None)
