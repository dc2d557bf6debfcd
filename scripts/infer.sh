#!/usr/bin/env bash
# The score of a checkpoint over the evaluation cases: `bash scripts/infer.sh path/to/model.pt`.
set -euo pipefail
. "$(dirname "$0")/env.sh"
checkpoint=${1:-$CHECKPOINTS/model.pt}
[ $# -eq 0 ] || shift
timed run_bundle "${CARDS:-1}" evaluating bundle/configs/evaluate.json -- --ckpt_path "$checkpoint" "$@"
