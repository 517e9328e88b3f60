#!/usr/bin/env bash
# Stops the nodes that were started here, and reports which did not stop.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/scripts/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./stopNetwork.sh [--all]

Stop the nodes that startNetwork.sh or demo.sh started, and no others. Wait until they have ended.

  --all   also stop the client, and the Docker engine in run/docker/ if these scripts started one
END
    exit 0
fi
if [[ ! -x "$VENV_PYTHON" ]]; then
    say "nothing was running: this folder was never set up"
    exit 0
fi
exec "$VENV_PYTHON" -m scripts.network stop "$@"
