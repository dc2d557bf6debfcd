#!/usr/bin/env bash
# Check one accelerator and measure it, offline and in 8 minutes at most, with the torch that is there (2.4 or newer):
#   DEVICE=mlu bash scripts/check_accelerator.sh [DIRECTORY]
# It runs the self-check, the goldens of network and sliding windows in fp32, fp16 and bf16, a training of 50 steps with
# a restart, and a prediction, and times sliding windows and training steps. DIRECTORY (default accelerator) gets
# report.json and report.md, the table to send. Exit code 1: something failed.
# Settings: DEVICE (auto), STEPS (50), LIMIT (480 seconds; what does not fit is left out), SMALL (1 for tiny sizes, whose
# times mean nothing; default: 1 on a CPU, else 0), PYTHON (default .venv/bin/python, else python).
set -euo pipefail
directory=$(realpath -m "${1:-accelerator}")
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
# A missing operation must be an error, not a slow detour.
export ENABLE_FALLBACK_TO_CPU=${ENABLE_FALLBACK_TO_CPU:-0}
# The checkpoints are this script's own, so that an old torch may read them.
export KITS_UNET3D_OWN_CHECKPOINTS=1
exec "$PYTHON" -W ignore scripts/check_accelerator.py "$directory" --device "${DEVICE:-auto}" --steps "${STEPS:-50}" \
    --limit "${LIMIT:-480}" ${SMALL:+--small "$SMALL"}
