#!/usr/bin/env bash
# Run mypy over the installed names: it sees the directories as the installed namespace.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment test,dev
view=$(mktemp -d)
trap 'rm -rf "$view"' EXIT
mkdir "$view/kits_unet3d"
for room in transforms networks pipeline; do ln -s "$PWD/$room" "$view/kits_unet3d/$room"; done
MYPYPATH="$view" "$PYTHON" -m mypy --config-file setup.cfg --namespace-packages --explicit-package-bases \
    -p kits_unet3d.transforms -p kits_unet3d.networks -p kits_unet3d.pipeline
