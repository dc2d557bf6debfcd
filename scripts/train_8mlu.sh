#!/usr/bin/env bash
# Train on eight MLU cards from scratch, as Cambricon does: learning rate 3.2, halved after epochs 1500 and 3000,
# evaluations every 10 epochs from the 1400th, until 0.903.
set -euo pipefail
ACCELERATORS=${ACCELERATORS:-8}
. "$(dirname "$0")/env.sh"
timed run_bundle "$ACCELERATORS" training -- --ckpt_dir "$CHECKPOINTS" --seed "$SEED" \
    --batch_size 2 --learning_rate 3.2 --warmup_epochs 200 --decay_epochs "[1500,3000]" --decay_factor 0.5 --epochs 4000 \
    --first_evaluation 1400 --evaluate_every 10 --quality_threshold 0.903 "$@"
