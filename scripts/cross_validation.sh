#!/usr/bin/env bash
# A cross-validation of `best` for a CPU inside the training label maps, each fold with an equal budget of training time;
# the post-processing that the held out cases choose; and the folds' networks together on the evaluation cases, with and
# without it. The evaluation cases have no say in it.
#   bash scripts/cross_validation.sh LABELS OUT [MINUTES [SEEDS]]
# Arguments as of compare_recipes.sh, whose OUT may be given; MINUTES (10) of each fold, SEEDS ("1"). What is finished is
# not done again. Settings: BEST, FOLDS (5), and those of scripts/compare/steps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2; }
LABELS=$1 OUT=$2 MINUTES=${3:-10} SEEDS=${4:-1}
BEST=${BEST:-bundle/configs/best.json,bundle/configs/best_cpu.json} FOLDS=${FOLDS:-5}
. scripts/compare/steps.sh

train_fold() { # FOLDER FOLD SEED
    if [ ! -f "$1/result.json" ]; then rm -rf "$1"; fi
    local files=(bundle/configs/train.json ${BEST//,/ } scripts/compare/deadline.json)
    settled "$1/settings" "MINUTES=$MINUTES fold $2 of $FOLDS, seed $3; files $(digest "${files[@]}"), cases $DATA"
    [ ! -f "$1/result.json" ] || return 0
    kits train --out "$1" --fold "$2" --folds "$FOLDS" --dataset-dir "$OUT/prepared" \
        --config "${files[@]}" --set device_name=cpu precision=bf16 seed="$3" max_minutes="$MINUTES" \
        spacing_mm="$SPACING_MM" roi_size="$ROI"
}

echo "== data"
make_data
for seed in $SEEDS; do
    place=$OUT/cross_validation/folds/seed_$seed folders=() models=
    for ((fold = 0; fold < FOLDS; fold++)); do
        echo "== fold $fold, seed $seed"
        train_fold "$place/fold_$fold" "$fold" "$seed"
        folders+=("$place/fold_$fold") models+=" $place/fold_$fold/models/model_final.pt"
    done
    echo "== choice, seed $seed"
    ! due "$place/choice/postprocessing.json" "${folders[@]/%//result.json}" ||
        kits folds "${folders[@]}" --data-dir "$OUT/raw" --out "$place/choice"
    echo "== evaluation cases, seed $seed"
    predict_ours "$place" plain "$OUT/scans" "$models"
    predict_ours "$place" postprocessed "$OUT/scans" "$models" --postprocessing "$place/choice/postprocessing.json"
done
echo "== tables"
"$PYTHON" scripts/compare/summary.py "$OUT/cross_validation" --no-figures --recipes folds --seeds $SEEDS
