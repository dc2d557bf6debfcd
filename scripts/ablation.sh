#!/usr/bin/env bash
# `dynunet_ds` for a CPU with each of its parts switched off alone, and with the strong augmentation that it leaves out, at an
# equal budget of training time: trained on four fifths of the training label maps and scored on the others. Effect and
# cost; the evaluation cases do not influence it. `dynunet_ds` itself is that fold's training of cross_validation.sh, made if
# missing; so in one OUT both need the same MINUTES.
#   bash scripts/ablation.sh LABELS OUT [MINUTES [SEEDS [PARTS]]]
# Arguments as of compare_recipes.sh, whose OUT may be given; PARTS are names of scripts/compare/parts.json, all by
# default. Settings: BEST, FOLD (0), FOLDS (5), and those of scripts/compare/steps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2; }
LABELS=$1 OUT=$2 MINUTES=${3:-10} SEEDS=${4:-1} PARTS=${5:-}
BEST=${BEST:-bundle/configs/dynunet_ds.json,bundle/configs/dynunet_ds_cpu.json} FOLD=${FOLD:-0} FOLDS=${FOLDS:-5}
. scripts/compare/steps.sh
known=$("$PYTHON" -c 'import json; print(*json.load(open("scripts/compare/parts.json")))')
for part in $PARTS; do
    [[ " $known " == *" $part "* ]] || { echo "error: unknown part $part; known are $known" >&2; exit 2; }
done
PARTS=${PARTS:-$known}

echo "== data"
make_data
"$PYTHON" scripts/compare/held_out.py "$OUT" "$FOLD" "$FOLDS"
place=$OUT/fold_$FOLD
"$PYTHON" - "$place" <<'END'
import json
import pathlib
import sys

for name, keys in json.load(open("scripts/compare/parts.json")).items():
    (pathlib.Path(sys.argv[1]) / f"{name}.json").write_text(json.dumps(keys))
END
for seed in $SEEDS; do
    for part in dynunet_ds $PARTS; do
        echo "== $part, seed $seed"
        directory=$place/$part/seed_$seed training=$place/$part/seed_$seed/training configs=$BEST,$place/$part.json
        if [ "$part" = dynunet_ds ]; then
            training=$OUT/cross_validation/folds/seed_$seed/fold_$FOLD configs=$BEST
        fi
        train_fold "$training" "$FOLD" "$seed" "$configs"
        mkdir -p "$directory"
        [ -L "$directory/curves" ] || rm -rf "$directory/curves"
        ln -sfn "$training/eval" "$directory/curves"
        predict_ours "$directory" plain "$place/scans" "$training/models/model_final.pt"
    done
done
echo "== tables"
"$PYTHON" scripts/compare/summary.py "$place" --against dynunet_ds --no-figures --recipes dynunet_ds $PARTS --seeds $SEEDS
