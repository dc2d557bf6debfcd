# Sourced after steps.sh: nnU-Net in its own environment, on the scans that our recipes train on.
# Settings: NNUNET (directory of the environment, made if missing), BASE_PYTHON.
NNUNET=${NNUNET:-$OUT/nnunet-environment} NNUNET_VERSION=2.8.1 NNUNET_NUMBER=19
export nnUNet_extTrainer=$PWD/scripts/compare/nnunet nnUNet_compile=f nnUNet_n_proc_DA=1

make_nnunet_environment() {
    [ ! -f "$NNUNET/.installed-$NNUNET_VERSION" ] || return 0
    grep -E '^torch==' constraints.txt >"$OUT/nnunet.pins"
    [ -x "$NNUNET/bin/python" ] || "${BASE_PYTHON:-python3.11}" -m venv "$NNUNET"
    PIP_CONSTRAINT=$OUT/nnunet.pins "$NNUNET/bin/python" -m pip install --quiet --disable-pip-version-check \
        "nnunetv2==$NNUNET_VERSION"
    local site
    site=$(echo "$NNUNET"/lib/python3.*/site-packages)
    cp scripts/compare/nnunet/torchvision_operators.py "$site/"
    echo "import torchvision_operators" >"$site/torchvision_operators.pth"
    touch "$NNUNET/.installed-$NNUNET_VERSION"
}

# nnunet_directories RECIPE: the data of each recipe are separate, because the plans differ.
nnunet_directories() {
    export nnUNet_raw=$OUT/nnunet/raw nnUNet_preprocessed=$OUT/nnunet/$1 nnUNet_results=$OUT/nnunet/results
    mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
}

# make_nnunet_data RECIPE [BASE MAX]
make_nnunet_data() {
    nnunet_directories "$1"
    [ ! -f "$nnUNet_preprocessed/finished" ] || return 0
    "$PYTHON" scripts/compare/nnunet/dataset.py "$OUT/raw" "$nnUNet_raw/Dataset0${NNUNET_NUMBER}_KidneyPhantoms"
    "$NNUNET/bin/python" scripts/compare/nnunet/plan.py "$NNUNET_NUMBER" "$SPACING_MM" "$ROI" "${@:2}"
    touch "$nnUNet_preprocessed/finished"
}

# train_nnunet DIRECTORY RECIPE SEED: a training of exactly $MINUTES, on all training scans.
train_nnunet() {
    nnunet_directories "$2"
    export nnUNet_results=$1/results
    if [ ! -f "$1/finished" ]; then rm -rf "$1"; fi
    settled "$1/settings" "MINUTES=$MINUTES seed $3; cases $DATA"
    [ ! -f "$1/finished" ] || return 0
    mkdir -p "$nnUNet_results" "$1/curves"
    BUDGET_MINUTES=$MINUTES BUDGET_SEED=$3 "$NNUNET/bin/nnUNetv2_train" "$NNUNET_NUMBER" 3d_fullres all \
        -tr BudgetTrainer -device cpu
    cp "$nnUNet_results"/*/*/fold_all/loss.csv "$1/curves/loss.csv"
    touch "$1/finished"
}

# predict_nnunet DIRECTORY RECIPE VARIANT SCANS OPTIONS…: masks of the evaluation scans, and their scores.
predict_nnunet() {
    local directory=$1 variant=$3 scan
    nnunet_directories "$2"
    export nnUNet_results=$directory/results
    [ ! -f "$directory/$variant.json" ] || return 0
    rm -rf "$directory/$variant" "$OUT/nnunet/scans"
    mkdir -p "$OUT/nnunet/scans"
    for scan in "$4"/*.nii.gz; do
        ln -s "$scan" "$OUT/nnunet/scans/$(basename "$scan" .nii.gz)_0000.nii.gz"
    done
    "$NNUNET/bin/nnUNetv2_predict" -i "$OUT/nnunet/scans" -o "$directory/$variant" -d "$NNUNET_NUMBER" -c 3d_fullres -f all \
        -tr BudgetTrainer -chk checkpoint_final.pth -device cpu -npp 1 -nps 1 "${@:5}"
    score "$directory/$variant"
}
