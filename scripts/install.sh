#!/usr/bin/env bash
# Install this project with the tested versions into an existing Python, such as that of a vendor's image; an installed
# torch is never replaced: `bash scripts/install.sh [EXTRAS [OPTIONS OF PIP]]`.
# Settings: PYTHON (default python).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT

# torch and packages built for it: torch_mlu, torchvision, triton, …
brought() {
    "$PYTHON" -m pip list --format=freeze --disable-pip-version-check |
        grep -iE '^(torch[a-z0-9_.-]*|(pytorch[-_])?triton)==' || true
}
before=$(brought)
cp constraints.txt "$pins"
if [ -n "$before" ]; then
    grep -vE '^torch==' constraints.txt >"$pins"
    echo "$before" >>"$pins"
    echo "kept unchanged:" $before
fi
"$PYTHON" -m pip install --no-cache-dir --disable-pip-version-check -c "$pins" ".${1:+[$1]}" "${@:2}"
while read -r kept; do
    [ -z "$kept" ] || brought | grep -qxF "$kept" || { echo "error: the installation replaced $kept" >&2; exit 1; }
done <<<"$before"
