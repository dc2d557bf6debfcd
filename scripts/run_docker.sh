#!/usr/bin/env bash
# Run a command in this project's image, as the calling user, with data, checkpoints and the accelerators of this host:
#   bash scripts/run_docker.sh kits-unet3d device --device mlu --accelerators 8
# Or work in a vendor's image, with this repository mounted: make the container NAME, or enter it again.
#   IMAGE_NAME=path/to/cambricon/pytorch:tag bash scripts/run_docker.sh NAME
# Settings: IMAGE (default kits-unet3d), DATA (PYTORCH_TRAIN_DATASET, else data), CHECKPOINTS (PYTORCH_TRAIN_CHECKPOINT,
# else bundle/models), GPUS (docker's --gpus: all where nvidia-smi is installed; empty for none), DOCKER (docker; `echo`
# shows the command alone), DEVICES (/dev), CNMON (/usr/bin/cnmon).
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-kits-unet3d} DATA=${DATA:-${PYTORCH_TRAIN_DATASET:-data}}
CHECKPOINTS=${CHECKPOINTS:-${PYTORCH_TRAIN_CHECKPOINT:-bundle/models}}
DOCKER=${DOCKER:-docker} DEVICES=${DEVICES:-/dev} CNMON=${CNMON:-/usr/bin/cnmon}
GPUS=${GPUS-$(command -v nvidia-smi >/dev/null && echo all || true)}

mkdir -p "$DATA" "$CHECKPOINTS"
options=(--ipc=host --network=host)
options+=(-v "$(cd "$DATA" && pwd):/data" -v "$(cd "$CHECKPOINTS" && pwd):/checkpoints")
# Disable the silent fallback to the CPU: a run on hardware must report missing operations.
options+=(-e "ENABLE_FALLBACK_TO_CPU=${ENABLE_FALLBACK_TO_CPU:-0}")
for variable in MLU_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES OMP_NUM_THREADS DEVICE ACCELERATORS SEED RESTARTS NNODES NODE_RANK \
    MASTER_ADDR MASTER_PORT; do
    [ -z "${!variable:-}" ] || options+=(-e "$variable=${!variable}")
done
for node in "$DEVICES"/cambricon_dev[0-9]* "$DEVICES"/cambricon_ctl "$DEVICES"/cambricon_ipcm[0-9]*; do
    [ ! -e "$node" ] || options+=(--device "$node" --group-add "$(stat -c %g "$node")")
done
[ ! -x "$CNMON" ] || options+=(-v "$CNMON:/usr/bin/cnmon:ro")
[ -z "$GPUS" ] || options+=(--gpus "$GPUS")

if [ -n "${IMAGE_NAME:-}" ]; then
    name=${1:-kits_unet3d}
    if made_of=$("$DOCKER" container inspect --format '{{.Config.Image}}' "$name" 2>/dev/null); then
        if [ "$made_of" != "$IMAGE_NAME" ]; then
            echo "error: the container $name was made from $made_of, not from $IMAGE_NAME; choose another name" >&2
            exit 2
        fi
        "$DOCKER" start "$name" >/dev/null
        exec "$DOCKER" exec -it "$name" bash
    fi
    # As the image's own user, who may install into its Python.
    options+=(-it --name "$name" -v "$PWD:/workspace/kits_unet3d" -w /workspace/kits_unet3d)
    options+=(-e PYTORCH_TRAIN_DATASET=/data -e PYTORCH_TRAIN_CHECKPOINT=/checkpoints)
    exec "$DOCKER" run "${options[@]}" "$IMAGE_NAME" bash
fi

[ -t 0 ] && options+=(-it)
# Without data the scripts make phantoms on a CPU, unless a data directory is set.
[ "${DEVICE:-}" != cpu ] || compgen -G "$DATA/KiTS19/pre_data_dir/*_x.npy" >/dev/null ||
    [ -e "$DATA/KiTS19/pre_data_dir/index.json" ] || options+=(-e PYTORCH_TRAIN_DATASET=)
exec "$DOCKER" run --rm --user "$(id -u):$(id -g)" -e HOME=/tmp "${options[@]}" "$IMAGE" "$@"
