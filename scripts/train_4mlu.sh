#!/usr/bin/env bash
# Train on four MLU cards from scratch, as Cambricon does: learning rate 3.2, evaluations every 20 epochs from the 1000th.
# More settings of the configuration can follow: `bash scripts/train_4mlu.sh --resume True`.
set -euo pipefail
ACCELERATORS=${ACCELERATORS:-4}
. "$(dirname "$0")/env.sh"
timed run_bundle "$ACCELERATORS" training -- --ckpt_dir "$CHECKPOINTS" --seed "$SEED" \
    --batch_size 2 --learning_rate 3.2 --warmup_epochs 200 --decay_epochs "[]" --decay_factor 1.0 --epochs 4000 \
    --first_evaluation 1000 --evaluate_every 20 --quality_threshold 0.908 "$@"
