"""Print the end of the quickstart: what it made, the scores, and whether they are those that README promises."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kits_unet3d.networks import read_checkpoint

#: Mean Dice over the unseen phantoms that README promises.
PROMISED = {"kidney_dice": 0.88, "tumour_dice": 0.40}


def summary(out: Path, minutes: float, seconds: int) -> str:
    """Return the text.

    Args:
        out: output directory of the quickstart, with ``models/model.pt`` and ``scores.json``.
        minutes: of training that were asked for.
        seconds: that the whole quickstart took.
    """
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    model = read_checkpoint(out / "models" / "model.pt")
    settings = model["configuration"]
    steps, batch = model["iteration"], settings["batch_size"]
    mean = {name: scores["mean"][name] for name in PROMISED}
    lines = [
        "",
        f"Done in {seconds // 60} min {seconds % 60} s.",
        f"  scores    kidney Dice {mean['kidney_dice']:.3f}, tumour Dice {mean['tumour_dice']:.3f}, "
        f"mean of {len(scores['cases'])} unseen phantoms ({out}/scores.json)",
        f"  training  {steps} steps of {batch} patches from {settings['training_cases']} phantoms "
        f"in {model['seconds'] / 60:.1f} min, on {model['device']['threads']} threads in {settings['precision']}",
        f"  mask      {out}/masks/case_00000_seg.nii.gz",
        f"  picture   {out}/picture.png (scan, ground truth, prediction)",
        f"  report    {out}/masks/report.html",
        f"  curves    {sys.executable} -m tensorboard.main --logdir {out}/curves",
        "",
    ]
    if low := [name for name, value in mean.items() if value < PROMISED[name]]:
        promised = ", ".join(f"{name.replace('_dice', ' Dice')} {PROMISED[name]:.2f}" for name in low)
        lines += [
            f"The scores are BELOW those of README (at least {promised}). This machine did {steps} training steps in "
            "the time;",
            f"continue the same training with MINUTES={max(20, round(2 * minutes))} bash scripts/quickstart.sh",
            "",
        ]
    lines += [
        "The model has seen simulated scans only: it tries the program, and is of no use for scans of patients. Next:",
        f"  {sys.executable} -m kits_unet3d.pipeline.cli predict path/to/scan.nii.gz -o path/to/masks "
        f"--checkpoint {out}/models/model.pt",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
