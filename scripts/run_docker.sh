#!/usr/bin/env bash
# Run a command in the image, as the calling user, with data, checkpoints and all MLU cards of this host:
#   bash scripts/run_docker.sh kits-unet3d device --device mlu --accelerators 8
# Settings: IMAGE (default kits-unet3d), DATA (data), CHECKPOINTS (bundle/models), DOCKER (docker; `echo` shows the
# command alone), DEVICES (/dev), CNMON (/usr/bin/cnmon).
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-kits-unet3d} DATA=${DATA:-data} CHECKPOINTS=${CHECKPOINTS:-bundle/models}
DOCKER=${DOCKER:-docker} DEVICES=${DEVICES:-/dev} CNMON=${CNMON:-/usr/bin/cnmon}

mkdir -p "$DATA" "$CHECKPOINTS"
options=(run --rm --ipc=host --network=host --user "$(id -u):$(id -g)" -e HOME=/tmp)
options+=(-v "$(cd "$DATA" && pwd):/data" -v "$(cd "$CHECKPOINTS" && pwd):/checkpoints")
[ -t 0 ] && options+=(-it)
# Disable the silent fallback to the CPU: a run on hardware must report missing operations.
options+=(-e "ENABLE_FALLBACK_TO_CPU=${ENABLE_FALLBACK_TO_CPU:-0}")
for variable in MLU_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES OMP_NUM_THREADS DEVICE ACCELERATORS SEED RESTARTS NNODES NODE_RANK \
    MASTER_ADDR MASTER_PORT; do
    [ -z "${!variable:-}" ] || options+=(-e "$variable=${!variable}")
done
# Without data the scripts make phantoms on a CPU, unless a data directory is set.
[ "${DEVICE:-}" != cpu ] || compgen -G "$DATA/KiTS19/pre_data_dir/*_x.npy" >/dev/null ||
    [ -e "$DATA/KiTS19/pre_data_dir/index.json" ] || options+=(-e PYTORCH_TRAIN_DATASET=)
for node in "$DEVICES"/cambricon_dev[0-9]* "$DEVICES"/cambricon_ctl "$DEVICES"/cambricon_ipcm[0-9]*; do
    [ ! -e "$node" ] || options+=(--device "$node" --group-add "$(stat -c %g "$node")")
done
[ ! -x "$CNMON" ] || options+=(-v "$CNMON:/usr/bin/cnmon:ro")
exec "$DOCKER" "${options[@]}" "$IMAGE" "$@"
