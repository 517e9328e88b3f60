#!/usr/bin/env bash
# Style and types: ruff and mypy, over everything.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/check.sh

Check style and types: ruff check, ruff format --check, mypy --strict. mypy's cache is in
${XDG_CACHE_HOME:-~/.cache}/pbft-ci, and all checkouts share it.
END
    exit 0
fi

# Exit code: mypy's. Another checkout's results are as good as this one's: mypy compares the content
# of each file whose path or time differs. ruff takes less than a second without any.
check_types() {
    local folder="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}" result=0
    if [[ -n "$folder" ]]; then folder="$folder/pbft-ci"; fi
    if mkdir -p "$folder" 2>/dev/null && [[ -w "$folder" ]] && exec 8>>"$folder/mypy.lock"; then
        # Two at once in one cache fail with "database is locked": the second takes its checkout's own.
        if flock --nonblock 8; then
            "$VENV_PYTHON" -m mypy --cache-dir "$folder/mypy" || result=$?
            # 1: errors in the types. Above: mypy itself failed, as it does with a damaged cache.
            if ((result <= 1)); then return "$result"; fi
            rm -rf "$folder/mypy"
            say "mypy failed; checking again without its cache:"
        fi
        exec 8>&-
    fi
    "$VENV_PYTHON" -m mypy
}

set_up without_docker
set_up_requirements requirements-dev.txt
code=0
"$VENV_PYTHON" -m ruff check . || code=1
"$VENV_PYTHON" -m ruff format --check . || code=1
check_types || code=1
exit "$code"
