#!/usr/bin/env bash
# Run one host's part of a multi-host job: set the variables from which a launch script reads its rank.
#   srun --nodes 2 --ntasks-per-node 1 bash scripts/slurm.sh bash scripts/train_8mlu.sh
set -euo pipefail
[ -n "${SLURM_STEP_NODELIST:-}" ] || { echo "error: start this with srun, one task per host" >&2; exit 2; }
NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
# The whole list is read: `| head -n 1` may close the pipe while scontrol still writes, which then fails, and with it this.
hosts=$(scontrol show hostnames "$SLURM_STEP_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
export NNODES NODE_RANK MASTER_ADDR
exec "$@"
