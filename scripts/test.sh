#!/usr/bin/env bash
# Installs what the tests need and runs them: `bash scripts/test.sh [--all] [pytest arguments]`.
# Without --all, tests marked slow are left out. Two run at a time, those of one file one after the other; `-n 0` makes
# it one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment test
selection=(-m "not slow")
if [ "${1:-}" = "--all" ]; then
    selection=()
    shift
fi
exec "$PYTHON" -m pytest -q -n 2 --dist loadfile ${selection[@]+"${selection[@]}"} "$@"
