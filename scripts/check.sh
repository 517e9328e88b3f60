#!/usr/bin/env bash
# Style and types: ruff and mypy, over everything.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    echo "usage: ./scripts/check.sh    (ruff check, ruff format --check, mypy --strict)"
    exit 0
fi
set_up without_docker
# mypy reads their types.
set_up_requirements requirements-browser.txt
code=0
"$VENV_PYTHON" -m ruff check . || code=1
"$VENV_PYTHON" -m ruff format --check . || code=1
"$VENV_PYTHON" -m mypy || code=1
exit "$code"
