#!/usr/bin/env bash
# Install what the tests need and run them: `bash scripts/test.sh [--all] [pytest arguments]`.
# Without --all, tests marked slow are left out. The order is random; ORDER=number repeats one. Two test files run at
# a time; `-n 0` runs one. A crash of Python ends the run: pytest-xdist would start the crashed test again and again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ORDER=${ORDER:-$RANDOM}
make_environment test
selection=(-m "not slow")
if [ "${1:-}" = "--all" ]; then
    selection=()
    shift
fi
echo "tests run in random order, ORDER=$ORDER"
exec "$PYTHON" -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 --randomly-seed "$ORDER" \
    ${selection[@]+"${selection[@]}"} "$@"
