#!/usr/bin/env bash
# Stops the nodes that were started here, and says which did not stop.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/scripts/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./stopNetwork.sh [--all]

Ends exactly the nodes that startNetwork.sh or demo.sh started, and waits for their end.
--all: also the client and the Docker engine in run/docker/, where one was started.
END
    exit 0
fi
if [[ ! -x "$VENV_PYTHON" ]]; then
    say "nothing was running: nothing was ever set up here"
    exit 0
fi
exec "$VENV_PYTHON" -m scripts.network stop "$@"
