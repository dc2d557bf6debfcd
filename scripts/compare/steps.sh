# Sourced by compare_recipes.sh, ablation.sh and cross_validation.sh: the steps of a comparison, each of which leaves
# alone what is finished. Wants LABELS, OUT and MINUTES. Settings: PYTHON (an interpreter with this project and the extra
# figures), SPACING_MM, ROI, EVALUATION (cases; the eight of real_cases.py if not given), CONTRAST (enhanced or wide).
. scripts/environment.sh
[ -n "${PYTHON:-}" ] || make_environment figures
PYTHON=$(command -v "$PYTHON")
[ "${PYTHON#/}" != "$PYTHON" ] || PYTHON=$PWD/$PYTHON
SPACING_MM=${SPACING_MM:-[4.0,3.2,3.2]} ROI=${ROI:-[64,80,80]} CONTRAST=${CONTRAST:-enhanced} EVALUATION=${EVALUATION:-}
export PYTHONPATH=$PWD/scripts/compare${PYTHONPATH:+:$PYTHONPATH} # where the configurations find deadline.py
from_start() { case $1 in /*) echo "$1" ;; *) echo "$OLDPWD/$1" ;; esac; } # the scripts change to the repository, once
LABELS=$(from_start "$LABELS") OUT=$(from_start "$OUT")
case $OUT in *[[:space:]]*) echo "error: $OUT: the name of OUT must not contain spaces" >&2; exit 2 ;; esac
mkdir -p "$OUT"
kits() { "$PYTHON" -m kits_unet3d.pipeline.cli "$@"; }

# settled FILE SETTINGS…: record what a directory is made with; refuse other settings later.
settled() {
    if [ ! -f "$1" ]; then
        mkdir -p "${1%/*}"
        echo "${*:2}" >"$1"
    elif [ "$(cat "$1")" != "${*:2}" ]; then
        echo "error: ${1%/*} was made with $(cat "$1"), not with ${*:2}; give another OUT, or delete that directory" >&2
        return 2
    fi
}

# digest FILE…: of their contents.
digest() { cat "$@" | cksum | cut -d' ' -f1; }

# due FILE SOURCES…: FILE is missing, or older than one of its sources.
due() {
    local source
    [ -f "$1" ] || return 0
    for source in "${@:2}"; do
        if [ "$source" -nt "$1" ]; then return 0; fi
    done
    return 1
}

# Phantoms around the label maps, the preprocessed cases, and a directory of the scans to predict.
make_data() {
    settled "$OUT/settings" "SPACING_MM=$SPACING_MM ROI=$ROI CONTRAST=$CONTRAST EVALUATION=$EVALUATION"
    "$PYTHON" scripts/compare/real_cases.py "$LABELS" "$OUT" --contrast "$CONTRAST" ${EVALUATION:+--evaluation $EVALUATION}
    echo "{\"spacing_mm\": $SPACING_MM, \"roi_size\": $ROI}" >"$OUT/grid.json"
    kits prepare --data-dir "$OUT/raw" -o "$OUT/preprocessed" --config "$OUT/grid.json" --workers 2
    mkdir -p "$OUT/scans"
    DATA=$(digest "$OUT/raw/dataset.json") # which cases train and which are scored
    local label
    for label in "$OUT"/labels/evaluation/case_*; do
        ln -sfn "$OUT/raw/${label##*/}/imaging.nii.gz" "$OUT/scans/${label##*/}.nii.gz"
    done
}

# configs FILE,FILE…: these upon train.json, with a training that ends to the second.
configs() { echo "['bundle/configs/train.json','${1//,/\',\'}','scripts/compare/deadline.json']"; }

# monai ACTION CONFIGS OVERRIDES…: run one of the bundle's actions on the preprocessed cases.
monai() {
    "$PYTHON" -W ignore -m monai.bundle run "$1" --config_file "$2" --dataset_dir "$OUT/preprocessed" \
        --spacing_mm "$SPACING_MM" --roi_size "$ROI" --device_name cpu "${@:3}"
}

# train_ours DIRECTORY CONFIGS OVERRIDES…: a training of exactly $MINUTES; one that was interrupted starts again.
train_ours() {
    if [ ! -f "$1/models/model_final.pt" ]; then rm -rf "$1"; fi
    local files
    mapfile -t files < <(tr -d "[]'" <<<"$2" | tr , '\n')
    settled "$1/settings" "MINUTES=$MINUTES ${*:2}; files $(digest "${files[@]}"), cases $DATA"
    [ ! -f "$1/models/model_final.pt" ] || return 0
    monai training "$2" --ckpt_dir "$1/models" --output_dir "$1/curves" --max_minutes "$MINUTES" "${@:3}"
}

# train_fold DIRECTORY FOLD SEED FILE,FILE…: these upon train.json, trained for $MINUTES on the cases outside a fold of $FOLDS.
train_fold() {
    if [ ! -f "$1/result.json" ]; then rm -rf "$1"; fi
    local files=(bundle/configs/train.json ${4//,/ } scripts/compare/deadline.json)
    settled "$1/settings" "MINUTES=$MINUTES fold $2 of $FOLDS, seed $3; files $(digest "${files[@]}"), cases $DATA"
    [ ! -f "$1/result.json" ] || return 0
    kits train -o "$1" --fold "$2" --folds "$FOLDS" --dataset-dir "$OUT/preprocessed" \
        --config "${files[@]}" --set device_name=cpu precision=bf16 seed="$3" max_minutes="$MINUTES" \
        spacing_mm="$SPACING_MM" roi_size="$ROI"
}

# predict_ours DIRECTORY VARIANT SCANS CHECKPOINTS OPTIONS…: masks of the last weights, then their scores. The weights with
# the best score are never used, because the scored cases must not influence a training.
predict_ours() {
    local directory=$1 variant=$2 scans=$3 checkpoints=() checkpoint
    for checkpoint in $4; do checkpoints+=(--checkpoint "$checkpoint"); done
    if due "$directory/$variant.json" $4 "${@:5}"; then # among the options may be a file, of a post-processing
        kits predict "$scans" -o "$directory/$variant" "${checkpoints[@]}" --no-html-report "${@:5}"
        score "$directory/$variant"
    fi
}

# score MASKS: into MASKS.json; if a case fails it is not written, so the next run makes it.
score() {
    kits evaluate --predictions "$1" --labels "$OUT/raw" --allow-missing -o "$1.json" || { rm -f "$1.json" "$1.csv"; return 1; }
}
