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
cp -r transforms networks pipeline setup.cfg pyproject.toml README.md LICENSE "$WORK/source"
"$PYTHON" -m venv "$WORK/build"
"$WORK/build/bin/python" -m pip install --quiet --disable-pip-version-check build
"$WORK/build/bin/python" -m build --outdir "$WORK/dist" "$WORK/source" >"$WORK/build.log" 2>&1 || { cat "$WORK/build.log"; exit 1; }
"$PYTHON" -m venv "$WORK/empty"
"$WORK/empty/bin/python" -m pip install --quiet --disable-pip-version-check -c "$repository/constraints.txt" "$WORK"/dist/*.whl
cd "$WORK"
empty/bin/kits-unet3d --help
empty/bin/python -c 'from kits_unet3d.transforms import RandBalancedCropd; print(RandBalancedCropd)'
empty/bin/kits-unet3d phantom --cases 1 -o raw --shape 24 40 40 --spacing-mm 12 9 9
empty/bin/python -m pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(kits|monai|torch|numpy) *'
