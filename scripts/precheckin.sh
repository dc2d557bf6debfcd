#!/usr/bin/env bash
# A few minutes' check before a long run: two training steps and two evaluation cases on each of four MLU cards.
set -euo pipefail
ACCELERATORS=${ACCELERATORS:-4}
. "$(dirname "$0")/env.sh"
CHECKPOINTS=$(mktemp -d)
trap 'rm -rf "$CHECKPOINTS"' EXIT
timed run_bundle "$ACCELERATORS" training -- --ckpt_dir "$CHECKPOINTS" --seed "$SEED" --batch_size 2 \
    --training_cases $((2 * 2 * ACCELERATORS)) --evaluation_cases $((2 * ACCELERATORS)) --epochs 1 --first_evaluation 1 "$@"
