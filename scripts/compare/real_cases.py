"""Split label maps of KiTS19 or KiTS23 into training and evaluation cases, and make phantoms around them.

`python scripts/compare/real_cases.py LABELS OUT [--contrast wide] [--evaluation case_… …]`

A label map is ordinary if its slices are at least 1 mm apart. Two of the 32 available ones, case_00000 and case_00001,
have 611 and 602 slices of 0.5 mm and would take as long as ten others. Eight of the ordinary ones are scored. The
others train, with three simulated bodies around each. KiTS19's own list counts case_00064 among the training cases, so
the eight are named here.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from steps import kits, link, settle

from kits_unet3d.pipeline.data.index import Index
from kits_unet3d.pipeline.data.splits import folds_of
from kits_unet3d.pipeline.runtime.errors import UsageError, errors_reported
from kits_unet3d.pipeline.runtime.files import write_json

EVALUATION = tuple(f"case_{number:05d}" for number in (41, 61, 64, 76, 87, 161, 176, 206))
THINNEST_MM = 1.0
BODIES = 3


def ordinary(labels: Path) -> dict[str, Path]:
    """Return label maps (slice first) by case, without those with thin slices."""
    files = {path.parent.name: path for path in sorted(labels.glob("case_*/segmentation.nii.gz"))}
    return {case: path for case, path in files.items() if nib.load(path).header.get_zooms()[0] >= THINNEST_MM}


def require_cases(labels: Path, evaluation: Sequence[str]) -> None:
    """Raise a UsageError if a case to be scored has no ordinary label map."""
    if missing := sorted(set(evaluation) - set(ordinary(labels))):
        raise UsageError(f"{labels} has no {', '.join(missing)}; give the plan's label maps, or other evaluation cases")


def write_phantoms(labels: Path, out: Path, evaluation: Sequence[str], contrast: str, cysts: bool = False) -> None:
    """Write the phantoms and their split into `out/raw`, from links to the label maps in `out/labels`."""
    from kits_unet3d.pipeline.phantoms import write_dataset

    require_cases(labels, evaluation)
    training = ordinary(labels)
    scored = {case: training.pop(case) for case in evaluation}
    raw = out / "raw"
    for split, chosen, bodies in (("training", training, BODIES), ("evaluation", scored, 1)):
        for case, path in chosen.items():
            link(out / "labels" / split / case / path.name, path)
        write_dataset(raw, labels=out / "labels" / split, bodies=bodies, contrast=contrast, cysts=cysts, workers=2)
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    cases = {*content["training"], *content["evaluation"]} - set(scored)
    write_json(raw / "dataset.json", {**content, "training": sorted(cases), "evaluation": sorted(scored)})
    print(f"{len(training)} label maps for training, as {len(cases)} scans; {len(scored)} for evaluation", flush=True)


@dataclass(frozen=True)
class Cases:
    """Hold the data of an experiment in `out`: `raw`, `preprocessed`, and `scans`, links to those that are scored.

    Attributes:
        spacing_mm, roi_size: slice first.
        contrast: enhanced, or wide for any phase of contrast medium.
        evaluation: cases that are scored; the others train.
        cysts: the label maps are KiTS23's, with cysts as a class of their own.
    """

    out: Path
    spacing_mm: list[float]
    roi_size: list[int]
    contrast: str = "enhanced"
    evaluation: Sequence[str] = EVALUATION
    cysts: bool = False

    @property
    def scans(self) -> Path:
        return self.out / "scans"

    @property
    def digest(self) -> str:
        """Return a hash of the split, the scans and the label maps."""
        return Index.read(self.out / "preprocessed").digest

    def make(self, labels: Path) -> None:
        """Make what is missing; raise a UsageError if `out` has other data."""
        require_cases(labels, self.evaluation)
        grid = {"spacing_mm": self.spacing_mm, "roi_size": self.roi_size}
        settings = {**grid, "contrast": self.contrast, "evaluation": list(self.evaluation)}
        settle(self.out, settings | ({"cysts": True} if self.cysts else {}))
        write_phantoms(labels, self.out, self.evaluation, self.contrast, self.cysts)
        write_json(self.out / "grid.json", grid)
        source, target = self.out / "raw", self.out / "preprocessed"
        kits("prepare", "--data-dir", source, "-o", target, "--config", self.out / "grid.json", "--workers", 2)
        for case in self.evaluation:
            link(self.scans / f"{case}.nii.gz", source / case / "imaging.nii.gz")

    def held_out(self, fold: int, folds: int) -> Path:
        """Link the scans of a fold, one body of each label map, into `fold_<fold>/scans`; return that directory."""
        scans, seen = self.out / f"fold_{fold}" / "scans", set()
        cases = Index.read(self.out / "preprocessed").cases
        for case, number in sorted(folds_of(cases, folds).items()):
            scan, label = scans / f"{case}.nii.gz", cases[case]["source_sha256"]["label"]
            scan.unlink(missing_ok=True)
            if number == fold and label not in seen:
                link(scan, self.out / "raw" / case / "imaging.nii.gz")
            seen.add(label)
        return scans


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--contrast", default="enhanced")
    parser.add_argument("--evaluation", nargs="+", default=EVALUATION)
    arguments = parser.parse_args()
    with errors_reported():
        write_phantoms(arguments.labels, arguments.out, arguments.evaluation, arguments.contrast)
