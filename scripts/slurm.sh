#!/usr/bin/env bash
# One host's part of a job of many: tells a launch script, through the variables it reads, which host this is.
#   srun --nodes 2 --ntasks-per-node 1 bash scripts/slurm.sh bash scripts/train_8mlu.sh
set -euo pipefail
[ -n "${SLURM_STEP_NODELIST:-}" ] || { echo "error: this is to be started by srun, one task a host" >&2; exit 2; }
NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
# The whole list is read: `| head -n 1` may close the pipe while scontrol still writes, which then fails, and with it this.
hosts=$(scontrol show hostnames "$SLURM_STEP_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
export NNODES NODE_RANK MASTER_ADDR
exec "$@"
