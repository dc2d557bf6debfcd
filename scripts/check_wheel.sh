#!/usr/bin/env bash
# Build the wheel, install it with its requirements into an empty environment and try it there, away from the
# repository. Downloads everything anew: a few minutes. Settings: WORK (a new directory under TMPDIR, removed at the end).
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
WORK=${WORK:-$(mktemp -d)}
trap 'rm -rf "$WORK"' EXIT
PYTHON=${BASE_PYTHON:-python3}

mkdir "$WORK/source"
cp -r transforms networks pipeline bundle setup.cfg pyproject.toml README.md LICENSE "$WORK/source"
"$PYTHON" -m venv "$WORK/build"
"$WORK/build/bin/python" -m pip install --quiet --disable-pip-version-check build
"$WORK/build/bin/python" -m build --outdir "$WORK/dist" "$WORK/source" >"$WORK/build.log" 2>&1 || { cat "$WORK/build.log"; exit 1; }
"$PYTHON" -m venv "$WORK/empty"
"$WORK/empty/bin/python" -m pip install --quiet --disable-pip-version-check -c "$repository/constraints.txt" "$WORK"/dist/*.whl
cd "$WORK"
empty/bin/kits-unet3d --help
empty/bin/python -c 'from kits_unet3d.transforms import RandBalancedCropd; print(RandBalancedCropd)'
empty/bin/kits-unet3d phantom --cases 3 -o raw --shape 24 40 40 --spacing-mm 12 9 9
cat >tiny.json <<END
{"spacing_mm": [12.0, 9.0, 9.0], "roi_size": [16, 16, 16], "channels": [2, 4], "workers": 0, "epochs": 1,
 "first_evaluation": 1, "quality_threshold": 1.1}
END
empty/bin/kits-unet3d prepare --data-dir raw -o preprocessed --config tiny.json
empty/bin/kits-unet3d train --dataset-dir preprocessed -o trained --config train tiny.json --set device_name=cpu
empty/bin/kits-unet3d export bundle --checkpoint trained/models/model_final.pt -o bundle.zip --without onnx
empty/bin/python -m monai.bundle run training --config_file "$(empty/bin/kits-unet3d configs train tiny.json)" \
    --dataset_dir preprocessed --ckpt_dir again --output_dir again --device_name cpu
empty/bin/python -m pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(kits|monai|torch|numpy) *'
