#!/usr/bin/env bash
# Training throughput: `bash scripts/benchmark.sh [fp32|amp]-[mlu|cuda|cpu][-ddp]`, on synthetic data unless
# `--synthetic False` follows. Prints samples per second and percentiles of the step time.
set -euo pipefail
case ${1:-} in
fp32-mlu | fp32-cuda | fp32-cpu | amp-mlu | amp-cuda | amp-cpu | fp32-mlu-ddp | fp32-cuda-ddp | fp32-cpu-ddp | amp-mlu-ddp | amp-cuda-ddp | amp-cpu-ddp) ;;
*)
    echo "usage: bash scripts/benchmark.sh [fp32|amp]-[mlu|cuda|cpu][-ddp] [settings]" >&2
    exit 2
    ;;
esac
IFS=- read -r precision DEVICE ddp <<<"$1"
shift
PHANTOMS=
. "$(dirname "$0")/env.sh"
accelerators=1
[ -z "$ddp" ] || accelerators=${ACCELERATORS:-$([ "$DEVICE" = cpu ] && echo 2 || echo 4)}
# Half precision is bf16 on a CPU, which hardly supports fp16, and fp16 elsewhere, as in the reference.
[ "$precision" = fp32 ] || precision=$([ "$DEVICE" = cpu ] && echo bf16 || echo fp16)
timed run_bundle "$accelerators" benchmarking bundle/configs/benchmark.json -- --precision "$precision" --seed "$SEED" "$@"
