"""Print the end of the quickstart: what it made, the scores, and whether they are those that README promises."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from kits_unet3d.networks import read_checkpoint
from kits_unet3d.pipeline.device import resolve

#: Mean Dice over the unseen phantoms that README promises.
PROMISED = {"kidney_dice": 0.88, "tumour_dice": 0.40}
#: Settings of scripts/quickstart.sh; a command that repeats it names those that differ.
DEFAULTS = {"OUT": "quickstart", "CASES": "28", "SEED": "1"}


def processor() -> str:
    """Return the processor's name and the vector instructions that torch uses."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {resolve('cpu').describe()['instructions']}"


def summary(settings: Mapping[str, str], seconds: int) -> str:
    """Return the text.

    Args:
        settings: of the run, with the names of :data:`DEFAULTS`.
        seconds: that the whole quickstart took.
    """
    out = Path(settings["OUT"])
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    model, run = (read_checkpoint(out / "models" / name) for name in ("model.pt", "model_final.pt"))
    training, steps, minutes = run["configuration"], run["iteration"], run["seconds"] / 60
    mean = {name: scores["mean"][name] for name in PROMISED}
    quoted = shlex.quote(str(out))
    lines = [
        "",
        f"Done in {seconds // 60} min {seconds % 60} s on {processor()}.",
        f"  scores    kidney Dice {mean['kidney_dice']:.3f}, tumour Dice {mean['tumour_dice']:.3f}, "
        f"mean of {len(scores['cases'])} unseen phantoms ({out}/scores.json)",
        f"  training  {steps} steps of {training['batch_size']} patches from {training['training_cases']} phantoms "
        f"in {minutes:.1f} min, {training['precision']}",
        f"  mask      {out}/masks/case_00000_seg.nii.gz",
        f"  picture   {out}/picture.png (scan, ground truth, prediction)",
        f"  report    {out}/masks/report.html",
        f"  curves    {sys.executable} -m tensorboard.main --logdir {quoted}/curves",
        "",
    ]
    if model["iteration"] < steps:
        lines[4] += f"; the best model is that of step {model['iteration']}"
    if low := [name for name, value in mean.items() if value < PROMISED[name]]:
        promised = ", ".join(f"{name.replace('_dice', ' Dice')} {PROMISED[name]:.2f}" for name in low)
        again = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if value != DEFAULTS[name]]
        command = " ".join([*again, f"MINUTES={max(20, round(2 * minutes))}", "bash scripts/quickstart.sh"])
        lines += [
            f"The scores are BELOW those of README (at least {promised}).",
            f"This machine made {steps} steps in {minutes:.1f} minutes. Continue this training:",
            f"  {command}",
            "",
        ]
    lines += [
        "The model has seen simulated scans only: it shows how the program works, not what is in a patient. Next:",
        f"  {sys.executable} -m kits_unet3d.pipeline.cli predict path/to/scan.nii.gz -o path/to/masks "
        f"--checkpoint {quoted}/models/model.pt",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary({name: os.environ[name] for name in DEFAULTS}, int(sys.argv[1])))
