# Sourced by the other scripts: make .venv with this project in it, once, and again when setup.cfg or the pins change.
# Usage: make_environment EXTRAS   (such as "figures" or "test,dev"); leaves the interpreter in $PYTHON.

make_environment() {
    local extras=$1 venv=${VENV:-.venv} stamp wanted
    wanted=$(cat setup.cfg constraints.txt pyproject.toml | cksum; pwd -P)
    stamp="$venv/.installed-$extras"
    PYTHON="$venv/bin/python"
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        for candidate in ${BASE_PYTHON+"$BASE_PYTHON"} python3.11 python3.12 python3.13 python3.10 python3; do
            if command -v "$candidate" >/dev/null && "$candidate" -c \
                'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
                "$candidate" -m venv --clear "$venv"
                break
            fi
        done
        "$PYTHON" -m pip --version >/dev/null 2>&1 || { echo "error: Python 3.10 to 3.13 with venv was not found; set BASE_PYTHON" >&2; return 2; }
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing into $venv …"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
        echo "$wanted" >"$stamp"
    fi
}
