"""Link the scans for nnU-Net: `python scripts/compare/nnunet/dataset.py RAW NNUNET_RAW/DatasetXXX_Name`.

RAW has `case_XXXXX/imaging.nii.gz`, `segmentation.nii.gz` and `dataset.json` with the split; files are linked, not
copied. All training scans are linked. The scans to predict are not, so that no choice can be made on them.
"""

import json
import sys
from pathlib import Path


def link(target: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to(target.resolve())


def write_dataset(raw: Path, out: Path) -> int:
    """Link the training scans and describe them; return their number."""
    training = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["training"]
    for case in training:
        link(raw / case / "imaging.nii.gz", out / "imagesTr" / f"{case}_0000.nii.gz")
        link(raw / case / "segmentation.nii.gz", out / "labelsTr" / f"{case}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumour": 2},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return len(training)


if __name__ == "__main__":
    print(write_dataset(Path(sys.argv[1]), Path(sys.argv[2])), "scans for nnU-Net")
