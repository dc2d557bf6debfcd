"""Split KiTS19's label maps into training and evaluation cases, and make phantoms around them.

`python scripts/compare/real_cases.py LABELS OUT [--contrast wide] [--evaluation case_… …]`

A label map is ordinary if its slices are at least 1 mm apart. Two of the 32 available ones, case_00000 and case_00001,
have 611 and 602 slices of 0.5 mm and would take as long as ten others. Eight of the ordinary ones are scored. The
others train, with three simulated bodies around each. KiTS19's own list counts case_00064 among the training cases, so
the eight are named here.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib

from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.runtime.files import write_json

EVALUATION = tuple(f"case_{number:05d}" for number in (41, 61, 64, 76, 87, 161, 176, 206))
THINNEST_MM = 1.0
BODIES = 3


def ordinary(labels: Path) -> dict[str, Path]:
    """Return label maps (slice first) by case, without those with thin slices."""
    files = {path.parent.name: path for path in sorted(labels.glob("case_*/segmentation.nii.gz"))}
    return {case: path for case, path in files.items() if nib.load(path).header.get_zooms()[0] >= THINNEST_MM}


def linked(files: dict[str, Path], directory: Path) -> Path:
    """Link these label maps alone into a directory, as the phantoms need them; return it."""
    for case, path in files.items():
        (directory / case).mkdir(parents=True, exist_ok=True)
        link = directory / case / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--contrast", default="enhanced")
    parser.add_argument("--evaluation", nargs="+", default=EVALUATION)
    arguments = parser.parse_args()
    files = ordinary(arguments.labels)
    missing = sorted(set(arguments.evaluation) - set(files))
    if missing:
        raise SystemExit(f"error: {arguments.labels} has no {', '.join(missing)}")
    evaluation = {case: files.pop(case) for case in arguments.evaluation}
    raw = arguments.out / "raw"
    for split, chosen, bodies in (("training", files, BODIES), ("evaluation", evaluation, 1)):
        directory = linked(chosen, arguments.out / "labels" / split)
        write_dataset(raw, labels=directory, bodies=bodies, contrast=arguments.contrast, workers=2)
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    cases = {*content["training"], *content["evaluation"]}
    split = {"training": sorted(cases - set(evaluation)), "evaluation": sorted(evaluation)}
    write_json(raw / "dataset.json", {**content, **split})
    print(f"{len(files)} label maps for training, as {len(split['training'])} scans; {len(evaluation)} for evaluation")


if __name__ == "__main__":
    main()
