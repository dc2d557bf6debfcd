#!/usr/bin/env bash
# Recipes at an equal budget of training time, on phantoms around real label maps: data, trainings one after another,
# scores, tables and figures. Finished steps are skipped, so it can be stopped and restarted.
#   bash scripts/compare_recipes.sh LABELS OUT [MINUTES [SEEDS [RECIPES]]]
# LABELS contains case_XXXXX/segmentation.nii.gz of KiTS19. MINUTES (10) of each training, SEEDS ("1 2 3"), RECIPES
# ("mlperf dynunet_ds nnunet nnunet-small"):
#   mlperf        the reference's loss, optimiser, augmentation, sampling and learning rate; a network for a CPU;
#                 its warm-up is as large a share of the time as of the epochs that the reference needs (warmup.py)
#   dynunet_ds          bundle/configs/dynunet_ds.json and dynunet_ds_cpu.json
#   nnunet        nnU-Net as it plans itself, with our spacing, patch, batch size and precision
#   nnunet-small  the same with the channels of mlperf, for many more steps in the same time
# Settings: BEST (its configurations, comma-separated), MLPERF_LEARNING_RATE (0.8, the reference's), VARIANTS ("tta ensemble";
# without tta, of which nnU-Net's takes longest, or without both) and those of scripts/compare/steps.sh and nnunet.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2; }
LABELS=$1 OUT=$2 MINUTES=${3:-10} SEEDS=${4:-1 2 3} RECIPES=${5:-mlperf dynunet_ds nnunet nnunet-small}
for recipe in $RECIPES; do
    case $recipe in mlperf | dynunet_ds | nnunet | nnunet-small) ;; *) echo "error: unknown recipe $recipe" >&2; exit 2 ;; esac
done
BEST=${BEST:-bundle/configs/dynunet_ds.json,bundle/configs/dynunet_ds_cpu.json}
VARIANTS=${VARIANTS-tta ensemble}
for variant in $VARIANTS; do
    case $variant in tta | ensemble) ;; *) echo "error: unknown variant $variant" >&2; exit 2 ;; esac
done
. scripts/compare/steps.sh
. scripts/compare/nnunet.sh
wanted() { [[ " $VARIANTS " == *" $1 "* ]]; }

mlperf() {
    train_ours "$1" "$(configs scripts/compare/mlperf.json)" --seed "$2" --learning_rate "${MLPERF_LEARNING_RATE:-0.8}"
    predict_ours "$1" plain "$OUT/scans" "$1/models/model_final.pt"
}

dynunet_ds() {
    train_ours "$1" "$(configs "$BEST")" --seed "$2" --precision bf16
    predict_ours "$1" plain "$OUT/scans" "$1/models/model_final.pt"
    ! wanted tta || predict_ours "$1" tta "$OUT/scans" "$1/models/model_final.pt" --tta
}

nnunet() { # DIRECTORY SEED RECIPE [BASE MAX]
    make_nnunet_environment
    make_nnunet_data "$3" "${@:4}"
    train_nnunet "$1" "$3" "$2"
    predict_nnunet "$1" "$3" plain "$OUT/scans" --disable_tta
    ! wanted tta || predict_nnunet "$1" "$3" tta "$OUT/scans"
}

echo "== data"
make_data
for seed in $SEEDS; do
    for recipe in $RECIPES; do
        echo "== $recipe, seed $seed"
        case $recipe in
            nnunet) nnunet "$OUT/$recipe/seed_$seed" "$seed" nnunet 32 320 ;;
            nnunet-small) nnunet "$OUT/$recipe/seed_$seed" "$seed" nnunet-small 16 128 ;;
            *) "$recipe" "$OUT/$recipe/seed_$seed" "$seed" ;;
        esac
    done
done
# All seeds of dynunet_ds together: an ensemble by the mean of their results.
if wanted ensemble && [[ " $RECIPES " == *" dynunet_ds "* ]] && [ "$(wc -w <<<"$SEEDS")" -gt 1 ]; then
    predict_ours "$OUT/dynunet_ds" "ensemble_${SEEDS// /_}" "$OUT/scans" "$(for seed in $SEEDS; do echo "$OUT/dynunet_ds/seed_$seed/models/model_final.pt"; done)"
fi
echo "== tables and figures"
"$PYTHON" scripts/compare/summary.py "$OUT" --recipes $RECIPES --seeds $SEEDS
