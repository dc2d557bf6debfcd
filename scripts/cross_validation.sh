#!/usr/bin/env bash
# A cross-validation of `dynunet_ds` for a CPU inside the training label maps, each fold with an equal budget of training time;
# the post-processing that the held out cases choose; the folds' networks together on the evaluation cases, with and
# without it; and the held out cases by the default windows and the reference's. Evaluation cases do not influence it.
#   bash scripts/cross_validation.sh LABELS OUT [MINUTES [SEEDS]]
# Arguments as of compare_recipes.sh, whose OUT may be given; MINUTES (10) of each fold, SEEDS ("1"). Finished steps
# are skipped. Settings: BEST, FOLDS (5), and those of scripts/compare/steps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2; }
LABELS=$1 OUT=$2 MINUTES=${3:-10} SEEDS=${4:-1}
BEST=${BEST:-bundle/configs/dynunet_ds.json,bundle/configs/dynunet_ds_cpu.json} FOLDS=${FOLDS:-5}
. scripts/compare/steps.sh

predict_held_out() { # DIRECTORY VARIANT FOLDS' DIRECTORY OPTIONS…: of each label map one body, by the network that has not seen it
    local fold
    due "$1/$2.json" "$3"/fold_*/models/model_final.pt || return 0
    for ((fold = 0; fold < FOLDS; fold++)); do
        "$PYTHON" scripts/compare/held_out.py "$OUT" "$fold" "$FOLDS"
        kits predict "$OUT/fold_$fold/scans" -o "$1/$2" --checkpoint "$3/fold_$fold/models/model_final.pt" --no-html-report "${@:4}"
    done
    score "$1/$2"
}

echo "== data"
make_data
for seed in $SEEDS; do
    place=$OUT/cross_validation/folds/seed_$seed directories=() models=
    for ((fold = 0; fold < FOLDS; fold++)); do
        echo "== fold $fold, seed $seed"
        train_fold "$place/fold_$fold" "$fold" "$seed" "$BEST"
        directories+=("$place/fold_$fold") models+=" $place/fold_$fold/models/model_final.pt"
    done
    echo "== choice, seed $seed"
    ! due "$place/choice/postprocessing.json" "${directories[@]/%//result.json}" ||
        kits folds "${directories[@]}" --data-dir "$OUT/raw" -o "$place/choice"
    echo "== evaluation cases, seed $seed"
    predict_ours "$place" plain "$OUT/scans" "$models"
    predict_ours "$place" postprocessed "$OUT/scans" "$models" --postprocessing "$place/choice/postprocessing.json"
    echo "== held out cases, seed $seed"
    predict_held_out "$OUT/cross_validation/held_out/dynunet_ds/seed_$seed" plain "$place"
    predict_held_out "$OUT/cross_validation/held_out/dynunet_ds/seed_$seed" reference_windows "$place" --windows reference
done
echo "== tables"
"$PYTHON" scripts/compare/summary.py "$OUT/cross_validation" --no-figures --recipes folds --seeds $SEEDS
"$PYTHON" scripts/compare/summary.py "$OUT/cross_validation/held_out" --no-figures --recipes dynunet_ds --seeds $SEEDS
