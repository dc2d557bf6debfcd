"""The scans of one fold, linked into a folder: `python scripts/compare/held_out.py OUT FOLD FOLDS`.

Reads `OUT/prepared`, and links `OUT/raw/<case>/imaging.nii.gz` as `OUT/fold_<FOLD>/scans/<case>.nii.gz`.
"""

import sys
from pathlib import Path

from kits_unet3d.pipeline.data.folds import folds_of
from kits_unet3d.pipeline.data.index import Index

if __name__ == "__main__":
    out, fold, folds = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    scans = out / f"fold_{fold}" / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    for case, number in folds_of(Index.read(out / "prepared").cases, folds).items():
        link = scans / f"{case}.nii.gz"
        link.unlink(missing_ok=True)
        if number == fold:
            link.symlink_to(out / "raw" / case / "imaging.nii.gz")
