#!/usr/bin/env bash
# From nothing to a segmented CT on a CPU: installs, makes phantoms, trains a small network, predicts a scan that
# training never saw. Run again, it reuses what is there. Settings: OUT (default quickstart), CASES, MINUTES.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
OUT=${OUT:-quickstart} CASES=${CASES:-28} MINUTES=${MINUTES:-6}
started=$SECONDS

make_environment figures
kits() { "$PYTHON" -m kits_unet3d.pipeline.cli "$@"; }

echo "== 1/5 phantoms: $CASES synthetic CT scans with known kidneys and tumours"
kits phantom --cases "$CASES" --out "$OUT/raw" --shape 90 160 160 --spacing-mm 3.6 2.4 2.4 --workers 2
echo "== 2/5 preparation"
kits prepare --data-dir "$OUT/raw" --out "$OUT/prepared" --config bundle/configs/demo.json --workers 2
if [ ! -f "$OUT/models/model_final.pt" ]; then
    echo "== 3/5 training, at most $MINUTES minutes"
    "$PYTHON" -W ignore -m monai.bundle run training \
        --config_file "['bundle/configs/train.json','bundle/configs/demo.json']" \
        --dataset_dir "$OUT/prepared" --ckpt_dir "$OUT/models" --output_dir "$OUT/curves" --max_minutes "$MINUTES" \
        --resume True
else
    echo "== 3/5 training: $OUT/models/model.pt is there already"
fi
echo "== 4/5 prediction of scans that training never saw"
mkdir -p "$OUT/scans"
for case in "$OUT"/raw/case_*; do
    number=$((10#${case##*_}))
    # one case in five is for evaluation
    [ $((number % 5)) -ne 0 ] || ln -sfn "$(cd "$case" && pwd)/imaging.nii.gz" "$OUT/scans/${case##*/}.nii.gz"
done
kits predict "$OUT/scans" -o "$OUT/masks" --checkpoint "$OUT/models/model.pt" --precision auto
echo "== 5/5 scores and picture"
kits evaluate --predictions "$OUT/masks" --labels "$OUT/raw" --out "$OUT/scores.json"
kits picture "$OUT/scans/case_00000.nii.gz" --mask "$OUT/masks/case_00000_seg.nii.gz" \
    --truth "$OUT/raw/case_00000/segmentation.nii.gz" --out "$OUT/picture.png" >/dev/null

cat <<END

Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s.
  mask     $OUT/masks/case_00000_seg.nii.gz
  picture  $OUT/picture.png     (scan, truth, prediction)
  scores   $OUT/scores.json
  curves   $PYTHON -m tensorboard.main --logdir $OUT/curves
Next: segment a scan of your own with
  $PYTHON -m kits_unet3d.pipeline.cli predict path/to/scan.nii.gz -o path/to/masks --checkpoint $OUT/models/model.pt
END
