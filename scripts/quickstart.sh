#!/usr/bin/env bash
# Segment CT with a network of your own, from nothing, on a CPU: install, make phantoms, train a small network for
# MINUTES, predict scans that training never saw, and score the masks. Run it again to use what is there; run it again
# with more MINUTES to continue the training. Settings: OUT (quickstart), CASES (28), MINUTES (6, in all), SEED (1).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
OUT=${OUT:-quickstart} CASES=${CASES:-28} MINUTES=${MINUTES:-6} SEED=${SEED:-1}
started=$SECONDS
# Wrong values are an error at once, not after the installation.
if ! [[ $MINUTES =~ ^[0-9]*\.?[0-9]+$ && $MINUTES =~ [1-9] && $SEED =~ ^[0-9]+$ && $CASES =~ ^[0-9]+$ ]]; then
    echo "error: MINUTES must be a number above 0, SEED and CASES whole numbers; got $MINUTES, $SEED, $CASES" >&2
    exit 2
fi
overlays="'bundle/configs/dynunet_ds.json','bundle/configs/dynunet_ds_cpu.json','bundle/configs/demo.json'"

make_environment figures
# The checkpoints are the quickstart's own, so that an old torch may read them.
export KITS_UNET3D_OWN_CHECKPOINTS=1
kits() { "$PYTHON" -m kits_unet3d.pipeline.cli "$@"; }

echo "== 1/5 phantoms: $CASES simulated CT scans with known kidneys and tumours"
kits phantom --cases "$CASES" -o "$OUT/raw" --shape 90 160 160 --spacing-mm 3.6 2.4 2.4 --workers 2
echo "== 2/5 preprocessing"
kits prepare --data-dir "$OUT/raw" -o "$OUT/preprocessed" --config bundle/configs/demo.json --workers 2
echo "== 3/5 training: $MINUTES minutes in all"
status=0
# MONAI warns before each run that configurations are code.
"$PYTHON" -W ignore::UserWarning:monai.bundle.scripts -m monai.bundle run training \
    --config_file "['bundle/configs/train.json',$overlays]" --dataset_dir "$OUT/preprocessed" \
    --ckpt_dir "$OUT/models" --output_dir "$OUT/curves" --max_minutes "$MINUTES" --seed "$SEED" --resume True \
    --save_minutes 1 || status=$?
if [ "$status" -ne 0 ]; then
    [ "$status" -ne 3 ] || echo "$OUT contains another training; use another OUT, or the CASES and SEED of that one" >&2
    exit "$status"
fi
echo "== 4/5 prediction of scans that were not trained on"
mkdir -p "$OUT/scans"
for case in "$OUT"/raw/case_*; do
    number=$((10#${case##*_}))
    # one case in five is for evaluation
    [ $((number % 5)) -ne 0 ] || ln -sfn "$(cd "$case" && pwd)/imaging.nii.gz" "$OUT/scans/${case##*/}.nii.gz"
done
kits predict "$OUT/scans" -o "$OUT/masks" --checkpoint "$OUT/models/model.pt" --precision auto
echo "== 5/5 scores and picture"
kits evaluate --predictions "$OUT/masks" --labels "$OUT/raw" --allow-missing -o "$OUT/scores.json"
kits picture "$OUT/scans/case_00000.nii.gz" --mask "$OUT/masks/case_00000_seg.nii.gz" \
    --ground-truth "$OUT/raw/case_00000/segmentation.nii.gz" -o "$OUT/picture.png" >/dev/null
OUT=$OUT CASES=$CASES SEED=$SEED "$PYTHON" scripts/quickstart_summary.py $((SECONDS - started))
