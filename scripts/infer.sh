#!/usr/bin/env bash
# Score a checkpoint on the evaluation cases: `bash scripts/infer.sh [path/to/model.pt] [settings]`.
set -euo pipefail
. "$(dirname "$0")/env.sh"
checkpoint=$CHECKPOINTS/model.pt
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    checkpoint=$1
    shift
else
    export KITS_UNET3D_OWN_CHECKPOINTS=1 # this directory's own training, so that an old torch may read it
fi
timed run_bundle "${ACCELERATORS:-1}" evaluating bundle/configs/evaluate.json -- --ckpt_path "$checkpoint" "$@"
