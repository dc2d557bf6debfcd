"""Link the scans of one fold into a directory: `python scripts/compare/held_out.py OUT FOLD FOLDS`.

Reads `OUT/preprocessed`, and links `OUT/raw/<case>/imaging.nii.gz` as `OUT/fold_<FOLD>/scans/<case>.nii.gz`: one body
of each label map, as the comparison scores them.
"""

import sys
from pathlib import Path

from kits_unet3d.pipeline.data.index import Index
from kits_unet3d.pipeline.data.splits import folds_of

if __name__ == "__main__":
    out, fold, folds = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    scans = out / f"fold_{fold}" / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    cases = Index.read(out / "preprocessed").cases
    seen: set[str] = set()
    for case, number in sorted(folds_of(cases, folds).items()):
        link = scans / f"{case}.nii.gz"
        link.unlink(missing_ok=True)
        label = cases[case]["source_sha256"]["label"]
        if number == fold and label not in seen:
            link.symlink_to(out / "raw" / case / "imaging.nii.gz")
        seen.add(label)
