#!/usr/bin/env bash
# Train with the bundle's configuration on one or many accelerators or hosts (settings in env.sh); further settings of
# the configuration can follow: `ACCELERATORS=8 bash scripts/train.sh --dataset_dir path/to/preprocessed --epochs 4000`.
set -euo pipefail
. "$(dirname "$0")/env.sh"
run_bundle "${ACCELERATORS:-1}" training -- --ckpt_dir "$CHECKPOINTS" --seed "$SEED" "$@"
