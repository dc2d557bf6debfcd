#!/usr/bin/env bash
# Install this project with the tested versions into an existing Python, such as that of a vendor's image. The torch
# found there decides on the set of versions and is never replaced: `bash scripts/install.sh [EXTRAS [OPTIONS OF PIP]]`.
# Settings: PYTHON (default python); TORCH_INDEX, an index of torch builds to use if there is no torch yet, such as
# https://download.pytorch.org/whl/cpu for the small build without accelerators.
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
older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

before=$(brought)
torch=$(sed -nE 's/^torch==([0-9.]+).*/\1/p' <<<"$before")
set=constraints.txt index=()
if [ -z "$torch" ]; then
    [ -z "${TORCH_INDEX:-}" ] || index=(--extra-index-url "$TORCH_INDEX")
elif older "$torch" 2.4.0; then
    echo "error: torch $torch is too old, 2.4.0 is the oldest that works; take a newer image of the vendor" >&2
    exit 2
elif older "$torch" 2.8.0; then # MONAI 1.6 needs it
    set=constraints-mlu370.txt
fi
cp "$set" "$pins"
if [ -n "$before" ]; then
    grep -vE '^torch==' "$set" >"$pins"
    echo "$before" >>"$pins"
    echo "kept unchanged:" $before
    echo "set of versions: $set"
fi
install() { "$PYTHON" -m pip install --no-cache-dir --disable-pip-version-check ${index[@]+"${index[@]}"} -c "$pins" "$@"; }

if [ -n "$torch" ] && older "$torch" 2.4.1; then
    # MONAI 1.5.2 demands torch 2.4.1, and works with the 2.4.0 of Cambricon's image. So pip must not check that demand:
    # it installs the other requirements, and then MONAI and this project by themselves.
    others=$("$PYTHON" - "${1:-}" <<'END'
import configparser, sys

setup = configparser.ConfigParser()
setup.read("setup.cfg")
names = [setup["options"]["install_requires"], *(setup["options.extras_require"][e] for e in sys.argv[1].split(",") if e)]
print("\n".join(line for text in names for line in text.split("\n") if line and not line.startswith(("torch>", "monai"))))
END
    )
    mapfile -t others <<<"$others"
    install "${others[@]}" "${@:2}"
    install --no-deps "$(grep '^monai==' "$set")" . "${@:2}"
else
    install ".${1:+[$1]}" "${@:2}"
fi
while read -r kept; do
    [ -z "$kept" ] || brought | grep -qxF "$kept" || { echo "error: the installation replaced $kept" >&2; exit 1; }
done <<<"$before"
