"""Train and predict with nnU-Net, in a virtual environment of its own, on the scans that our recipes train on.

Environment variables: NNUNET, the virtual environment's directory, made if missing (OUT/nnunet-environment);
BASE_PYTHON, the interpreter that makes it (python3.11).
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ours import score
from real_cases import Cases
from steps import ROOT, digest, link, make_directory, make_file, run

NUMBER, VERSION = 19, "2.8.1"
#: What runs in nnU-Net's environment.
PROGRAMS = Path(__file__).resolve().parent / "nnunet"


def environment(out: Path) -> Path:
    """Return the directory of the virtual environment's programs, after making it if it is missing."""
    directory = Path(os.environ.get("NNUNET") or out / "nnunet-environment").absolute()
    programs, finished = directory / "bin", directory / f".installed-{VERSION}"
    if not finished.is_file():
        pins = out / "nnunet.pins"
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pins.write_text("\n".join(line for line in lines if line.startswith("torch==")) + "\n", encoding="utf-8")
        if not (programs / "python").is_file():
            run(os.environ.get("BASE_PYTHON") or "python3.11", "-m", "venv", directory)
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, f"nnunetv2=={VERSION}", PIP_CONSTRAINT=pins)
        site = next(directory.glob("lib/python3.*/site-packages"))
        shutil.copy(PROGRAMS / "torchvision_operators.py", site)
        (site / "torchvision_operators.pth").write_text("import torchvision_operators\n", encoding="utf-8")
        finished.touch()
    return programs


def write_dataset(raw: Path, dataset: Path) -> None:
    """Link the training scans as nnU-Net wants them.

    The scans to predict are not among them, so that no choice can be made on them.
    """
    training = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["training"]
    for case in training:
        link(dataset / "imagesTr" / f"{case}_0000.nii.gz", raw / case / "imaging.nii.gz")
        link(dataset / "labelsTr" / f"{case}.nii.gz", raw / case / "segmentation.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumour": 2},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class NnUNet:
    """Hold one recipe of nnU-Net: its cases, and the channels of its first and of its widest level.

    Recipes have separate preprocessed data, because their plans differ.
    """

    cases: Cases
    name: str
    channels: list[int]

    def run(self, program: str, *arguments: object, results: Path, **variables: object) -> None:
        """Run a program of nnU-Net's environment with this recipe's directories."""
        directory = self.cases.out / "nnunet"
        for path in (directory / "raw", directory / self.name, results):
            path.mkdir(parents=True, exist_ok=True)
        variables |= {"nnUNet_raw": directory / "raw", "nnUNet_preprocessed": directory / self.name}
        variables |= {"nnUNet_extTrainer": PROGRAMS, "nnUNet_compile": "f", "nnUNet_n_proc_DA": 1}
        run(environment(self.cases.out) / program, *arguments, **variables, nnUNet_results=results)

    def preprocess(self) -> None:
        """Let nnU-Net plan and preprocess with the common spacing and patch."""
        directory = self.cases.out / "nnunet"

        def preprocessing() -> None:
            write_dataset(self.cases.out / "raw", directory / "raw" / f"Dataset{NUMBER:03d}_KidneyPhantoms")
            sizes = [json.dumps(self.cases.spacing_mm), json.dumps(self.cases.roi_size)]
            self.run("python", PROGRAMS / "planner.py", NUMBER, *sizes, *self.channels, results=directory / "results")
            (directory / self.name / "finished").touch()

        make_directory(directory / self.name, "finished", self._settings(), preprocessing)

    def train(self, directory: Path, *, minutes: float, seed: int) -> None:
        """Train for exactly these minutes on all training scans."""
        results, options = directory / "results", ["-tr", "BudgetTrainer", "-device", "cpu"]

        def training() -> None:
            budget = {"BUDGET_MINUTES": minutes, "BUDGET_SEED": seed}
            self.run("nnUNetv2_train", NUMBER, "3d_fullres", "all", *options, results=results, **budget)
            (directory / "curves").mkdir()
            shutil.copy(next(results.glob("*/*/fold_all/loss.csv")), directory / "curves" / "loss.csv")
            (directory / "finished").touch()

        make_directory(directory, "finished", {"minutes": minutes, "seed": seed, **self._settings()}, training)

    def predict(self, directory: Path, variant: str) -> None:
        """Predict the scans to score, with TTA by flipping if `variant` is `tta`, and score the masks."""
        masks, results = directory / variant, directory / "results"
        scans = self.cases.out / "nnunet" / "scans"
        checkpoint = next(results.glob("*/*/fold_all/checkpoint_final.pth"))

        def prediction() -> None:
            for path in (masks, scans):
                shutil.rmtree(path, ignore_errors=True)
            for scan in self.cases.scans.glob("*.nii.gz"):
                link(scans / scan.name.replace(".nii.gz", "_0000.nii.gz"), scan)
            trained = ["-d", NUMBER, "-c", "3d_fullres", "-f", "all", "-tr", "BudgetTrainer", "-chk", checkpoint.name]
            use = ["-device", "cpu", "-npp", 1, "-nps", 1, *([] if variant == "tta" else ["--disable_tta"])]
            self.run("nnUNetv2_predict", "-i", scans, "-o", masks, *trained, *use, results=results)
            score(self.cases, masks)

        make_file(masks.with_suffix(".json"), {"networks": digest(checkpoint), **self._settings()}, prediction)

    def _settings(self) -> dict[str, Any]:
        return {"nnunetv2": VERSION, "channels": self.channels, "cases": self.cases.digest}
