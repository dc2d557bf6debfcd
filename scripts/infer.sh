#!/usr/bin/env bash
# Score a checkpoint on the evaluation cases: `bash scripts/infer.sh [path/to/model.pt] [settings]`.
set -euo pipefail
. "$(dirname "$0")/env.sh"
checkpoint=$CHECKPOINTS/model.pt
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    checkpoint=$1
    shift
fi
timed run_bundle "${ACCELERATORS:-1}" evaluating bundle/configs/evaluate.json -- --ckpt_path "$checkpoint" "$@"
