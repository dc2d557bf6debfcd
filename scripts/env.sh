# Sourced by the launch scripts. Settings, all with defaults:
#   DEVICE                    mlu (default), cuda, cpu or auto; with cpu and without data, the demo's network trains
#                             on phantoms made here
#   ACCELERATORS              processes on this host
#   PYTORCH_TRAIN_DATASET     preprocessed KiTS19 under KiTS19/pre_data_dir
#   PYTORCH_TRAIN_CHECKPOINT  directory of checkpoints (default models); logs and scores go into its subdirectory eval
#   MLU_VISIBLE_DEVICES       MLU cards to use, as everywhere on that platform
#   SEED                      of the run (default 0, as in Cambricon's scripts), unless --seed follows
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   as torchrun's
#   RESTARTS                  how often to restart all processes after one of them died (default 0); needs
#                             --resume True to continue from the last checkpoint
#   PYTHON                    interpreter with this project installed (default .venv/bin/python, else python)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DEVICE=${DEVICE:-mlu} SEED=${SEED:-0}
before=
for argument; do # the script's own, read for the line RESULT
    [ "$before" != --seed ] || SEED=$argument
    before=$argument
done
CHECKPOINTS=${PYTORCH_TRAIN_CHECKPOINT:-models}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
OVERLAYS=() DATASET=()
# On hardware a missing operation must be an error, not a slow training.
export ENABLE_FALLBACK_TO_CPU=${ENABLE_FALLBACK_TO_CPU:-0}
# MONAI warns before each run that configurations are code.
export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::UserWarning:monai.bundle.scripts}

# On a CPU without data: a network that a CPU can train, and phantoms for it (in PHANTOMS, by default beside the
# checkpoints; none if that is set to nothing), one in five for evaluation, two of those for each process.
if [ "$DEVICE" = cpu ] && [ -z "${PYTORCH_TRAIN_DATASET:-}" ]; then
    OVERLAYS=(bundle/configs/dynunet_ds.json bundle/configs/dynunet_ds_cpu.json bundle/configs/demo.json)
    PHANTOMS=${PHANTOMS-$CHECKPOINTS/phantoms}
    if [ -n "$PHANTOMS" ]; then
        "$PYTHON" -m kits_unet3d.pipeline.cli phantom --cases $((10 * ${ACCELERATORS:-2})) -o "$PHANTOMS/raw" \
            --shape 48 80 80 --spacing-mm 6.7 4.8 4.8 --workers 2
        "$PYTHON" -m kits_unet3d.pipeline.cli prepare --data-dir "$PHANTOMS/raw" -o "$PHANTOMS/preprocessed" \
            --config bundle/configs/demo.json --workers 2
        DATASET=(--dataset_dir "$PHANTOMS/preprocessed")
    fi
fi

# run_bundle PROCESSES ACTION OVERLAY… -- OVERRIDES…: run one process directly, several as torchrun does.
run_bundle() {
    local processes=$1 action=$2 configs="'bundle/configs/train.json'" overlay launcher=()
    shift 2
    for overlay in ${OVERLAYS[@]+"${OVERLAYS[@]}"}; do configs+=",'$overlay'"; done
    while [ "$1" != -- ]; do
        configs+=",'$1'"
        shift
    done
    shift
    if [ "$processes" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ]; then
        configs+=",'bundle/configs/multi_device.json'"
        launcher=(-m kits_unet3d.pipeline.runtime.launch --nnodes "${NNODES:-1}" --nproc_per_node "$processes")
        launcher+=(--max-restarts "${RESTARTS:-0}")
        if [ "${NNODES:-1}" -gt 1 ]; then
            # Otherwise a restarted group would use the store of the dead one, with its old addresses.
            export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
            launcher+=(--rdzv-backend c10d --rdzv-id "${MASTER_PORT:-29500}")
            launcher+=(--rdzv-endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}")
            launcher+=(--rdzv-conf "is_host=$((NODE_RANK == 0))")
        else
            launcher+=(--standalone)
        fi
    fi
    "$PYTHON" ${launcher[@]+"${launcher[@]}"} -m monai.bundle run "$action" --config_file "[$configs]" \
        --device_name "$DEVICE" --output_dir "$CHECKPOINTS/eval" ${DATASET[@]+"${DATASET[@]}"} "$@"
}

# timed COMMAND…: run it and print the last line of MLPerf's run_and_time.sh.
timed() {
    local started started_text status=0
    started=$(date +%s) started_text=$(date '+%Y-%m-%d %r')
    "$@" || status=$?
    echo "RESULT,image_segmentation,$SEED,$(($(date +%s) - started)),${USER:-$(id -un)},$started_text"
    return "$status"
}
