#!/usr/bin/env bash
# A network on a real CT whose kidneys are known from a label map of TotalSegmentator: mask, scores of the kidneys,
# volumes and a picture. That label map is a model's output, not ground truth, and has no tumours: a tumour
# that the network predicts counts as kidney here, and its volume is in OUT/masks/summary.json.
#   bash scripts/real_ct.sh CHECKPOINT CT LABELS OUT [OPTIONS OF PREDICT…]
# Settings: KIDNEYS (values of the kidneys in LABELS, "2 3"), PYTHON.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2; }
PYTHON=${PYTHON:-.venv/bin/python} KIDNEYS=${KIDNEYS:-2 3}
kits() { "$PYTHON" -m kits_unet3d.pipeline.cli "$@"; }
checkpoint=$1 ct=$2 labels=$3 out=$4
file=$(basename "$ct")
name=${file%.gz} name=${name%.nii}
mkdir -p "$out/ground_truth"
"$PYTHON" - "$labels" "$out/ground_truth/$name.nii.gz" $KIDNEYS <<'END'
import sys

import nibabel as nib
import numpy as np

labels = nib.load(sys.argv[1])
kidneys = np.isin(np.asanyarray(labels.dataobj), [int(value) for value in sys.argv[3:]]).astype(np.uint8)
if not kidneys.any():
    raise SystemExit(f"error: {sys.argv[1]}: has no voxel of {', '.join(sys.argv[3:])}; name the kidneys' values in KIDNEYS")
nib.save(nib.Nifti1Image(kidneys, labels.affine), sys.argv[2])
END
kits predict "$ct" -o "$out/masks" --checkpoint "$checkpoint" --overwrite --no-html-report "${@:5}"
kits evaluate --predictions "$out/masks" --labels "$out/ground_truth" --structures kidney=1,2 -o "$out/scores.json"
# The mask has the scan's own ending, .nii or .nii.gz.
kits picture "$ct" --mask "$out/masks/${name}_seg${file#"$name"}" --ground-truth "$out/ground_truth/$name.nii.gz" -o "$out/picture.png"
