#!/usr/bin/env bash
# Prove one end of the supported versions: `bash scripts/check_versions.sh oldest|newest`. It makes an environment from
# the index, runs all tests but those that name what its torch lacks, the goldens once more by themselves, and the
# quickstart, and prints a table for docs/devices.md. It takes one to three hours on two cores, and 8 GB of disk.
#   oldest  Python 3.10, torch 2.4.1, MONAI 1.5.2, NumPy 1.26: constraints-mlu370.txt
#   newest  the newest torch and MONAI that the index and setup.cfg allow
# Settings: WORK (versions/oldest or versions/newest: the environment, logs and the table; kept), BASE_PYTHON (python3.10
# or python3.11), MINUTES (2, of the quickstart), ARGUMENTS (of pytest, such as "-k resample"; default: all tests, two
# files at a time).
set -euo pipefail
cd "$(dirname "$0")/.."
end=${1:-}
case $end in
oldest) python=${BASE_PYTHON:-python3.10} ;;
newest) python=${BASE_PYTHON:-python3.11} ;;
*)
    echo "usage: bash scripts/check_versions.sh oldest|newest" >&2
    exit 2
    ;;
esac
WORK=$(realpath -m "${WORK:-versions/$end}") MINUTES=${MINUTES:-2}
"$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $python with venv was not found; set BASE_PYTHON" >&2; exit 2; }
mkdir -p "$WORK"
PYTHON="$WORK/venv/bin/python"
if [ ! -e "$WORK/installed" ]; then
    "$python" -m venv --clear "$WORK/venv"
    if [ "$end" = oldest ]; then
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints-mlu370.txt -e '.[test,figures]'
    else
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[test,figures]'
    fi
    touch "$WORK/installed"
fi

# step NAME COMMAND…: run it with its output in a log; the last line that counts something goes into the table.
failed=0
step() {
    local name=$1 log="$WORK/${1// /-}.log" verdict=ok started=$SECONDS
    shift
    echo "== $name"
    "$@" >"$log" 2>&1 || { verdict="FAILED, see $log" failed=1; }
    local counted
    counted=$(grep -E '[0-9]+ (passed|failed)|scores +kidney Dice|parts failed' "$log" | tail -n 1 | tr -s '= ' ' ' || true)
    table+=("| $name | $verdict | ${counted:-none} | $(((SECONDS - started) / 60)) min |")
}
table=()
# shellcheck disable=SC2086  # several arguments
step "tests" "$PYTHON" -m pytest -q -p no:randomly ${ARGUMENTS:--n 2 --dist loadfile --max-worker-restart 0}
step "goldens" "$PYTHON" -m pytest -q -p no:randomly -m numeric
# The quickstart takes an environment that is ready.
(cat setup.cfg constraints.txt pyproject.toml | cksum; pwd -P) >"$WORK/venv/.installed-figures"
step "quickstart" env VENV="$WORK/venv" OUT="$WORK/quickstart" MINUTES="$MINUTES" bash scripts/quickstart.sh
step "self-check" env SMALL=1 DEVICE=cpu STEPS=8 PYTHON="$PYTHON" bash scripts/check_accelerator.sh "$WORK/accelerator"

versions=$("$PYTHON" -c '
import platform
from importlib.metadata import version
names = ("torch", "monai", "numpy", "pytorch-ignite")
print(", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]))')
{
    echo "| $end, $(date +%Y-%m-%d), $(uname -m) | $versions | | |"
    echo "|---|---|---|---|"
    printf '%s\n' "${table[@]}"
    echo
    echo "Left out by name:"
    grep -hE '^SKIPPED .*(torch|MONAI)' "$WORK/tests.log" | sed -E 's/^SKIPPED \[([0-9]+)\] ([^:]+)(:[0-9]+)?: /- \1 in \2: /' | sort -u || true
} | tee "$WORK/table.md"
exit "$failed"
