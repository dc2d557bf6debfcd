#!/usr/bin/env bash
# Run programs that are too heavy for the tests, each in its own environment, on a small bundle that is trained on
# phantoms here: `bash scripts/check_consumers.sh [label] [deploy] [mlflow]`, all if none is named. Downloads up to 6 GB.
# Settings: WORK (directory to work in, kept and used again), PYTHON (an interpreter with this project).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
[ -n "${PYTHON:-}" ] || make_environment test
PYTHON=$(command -v "$PYTHON") WORK=${WORK:-$(mktemp -d)}
[ "${PYTHON#/}" != "$PYTHON" ] || PYTHON=$PWD/$PYTHON
BASE_PYTHON=${BASE_PYTHON:-python3.11}
repository=$PWD
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)
kits() { "$PYTHON" -m kits_unet3d.pipeline.cli "$@"; }

# environment NAME PINS PACKAGE…: $WORK/NAME with the packages and this project, held to our torch and MONAI and to PINS
# (`a==1,b<2`), in build environments too.
environment() {
    local name=$1 pins=$2 bin=$WORK/$1/bin
    shift 2
    grep -E '^(torch|monai)==' constraints.txt >"$WORK/$name.pins"
    tr ',' '\n' <<<"$pins" >>"$WORK/$name.pins"
    [ -x "$bin/python" ] || "$BASE_PYTHON" -m venv "$WORK/$name"
    SAM2_BUILD_CUDA=0 PIP_CONSTRAINT=$WORK/$name.pins "$bin/python" -m pip install --quiet --disable-pip-version-check "$@" .
    "$bin/python" -m pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(monai|torch|mlflow|holoscan|pydicom|highdicom)' || true
}

# A bundle, a scan and its mask by our own command, the scan as a DICOM series.
if [ ! -d "$WORK/bundles/kits_unet3d" ]; then
    cat >"$WORK/tiny.json" <<END
{"spacing_mm": [8.0, 6.0, 6.0], "roi_size": [32, 32, 32], "channels": [4, 8, 8], "workers": 0, "learning_rate": 0.05,
 "warmup_epochs": 1, "epochs": 2, "first_evaluation": 2, "evaluate_every": 2, "quality_threshold": 1.1}
END
    kits phantom --cases 5 -o "$WORK/raw" --shape 40 72 72 --spacing-mm 8 6 6
    kits prepare --data-dir "$WORK/raw" -o "$WORK/preprocessed" --config "$WORK/tiny.json"
    "$PYTHON" -m monai.bundle run training --config_file "['bundle/configs/train.json','$WORK/tiny.json']" \
        --dataset_dir "$WORK/preprocessed" --ckpt_dir "$WORK/models" --output_dir "$WORK/eval" --device_name cpu
    kits export bundle --checkpoint "$WORK/models/model.pt" -o "$WORK/bundle.zip" --without onnx
    PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" tests/consumers/dicom_series.py \
        "$WORK/raw/case_00000/imaging.nii.gz" "$WORK/dicom"
    kits predict "$WORK/dicom" -o "$WORK/masks" --checkpoint "$WORK/models/model.pt" --dicom-seg
    kits predict "$WORK/raw/case_00000/imaging.nii.gz" -o "$WORK/masks" --checkpoint "$WORK/models/model.pt"
    kits unpack "$WORK/bundle.zip" -o "$WORK/bundles"
fi

check_label() {
    environment label 'pydicom<3,dicomweb-client<0.60,pynetdicom<3' monailabel==0.8.5
    local site
    site=$(echo "$WORK"/label/lib/python3.*/site-packages)
    # Its torchvision is built for another torch, and needs two operators during import.
    cat >"$site/torchvision_operators.py" <<END
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
END
    echo "import torchvision_operators" >"$site/torchvision_operators.pth"
    (cd "$WORK" && label/bin/python "$repository/tests/consumers/label_server.py" label bundles/kits_unet3d \
        raw/case_00000/imaging.nii.gz masks/case_00000_seg.nii.gz)
}

check_deploy() {
    environment deploy pydicom==3.0.2 monai-deploy-app-sdk==4.0.0 'holoscan-cu13<5' pydicom highdicom pylibjpeg \
        pylibjpeg-openjpeg pylibjpeg-libjpeg
    rm -rf "$WORK/deployed"
    mkdir "$WORK/deployed"
    (cd "$WORK" && ulimit -s 32768 && deploy/bin/python -m kits_unet3d.pipeline.export.deploy_app \
        -i dicom -o deployed -m bundles/kits_unet3d/models/model.ts)
    PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" tests/consumers/same_segmentation.py "$WORK/deployed" "$WORK/masks"
}

check_mlflow() {
    environment mlflow '' mlflow
    rm -rf "$WORK/tracked"
    (cd "$WORK/bundles/kits_unet3d" && "$WORK/mlflow/bin/python" -m monai.bundle run training \
        --config_file configs/train.json --dataset_dir "$WORK/preprocessed" --ckpt_dir "$WORK/tracked" \
        --output_dir "$WORK/tracked" --device_name cpu --workers 0 --epochs 1 --first_evaluation 1 --tracking mlflow)
    "$WORK/mlflow/bin/python" - "$WORK/tracked" <<'END'
import sys

import mlflow

mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlruns.db")
runs = mlflow.search_runs(search_all_experiments=True)
names = {name for name in runs.columns if name.startswith("metrics.")}
assert {"metrics.mean_dice", "metrics.train_loss"} <= names and set(runs["status"]) == {"FINISHED"}, (names, runs)
print("MLflow has", ", ".join(sorted(names)))
END
}

[ $# -gt 0 ] || set -- label deploy mlflow
for consumer in "$@"; do
    echo "== $consumer"
    "check_$consumer"
done
