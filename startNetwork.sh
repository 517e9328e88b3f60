#!/usr/bin/env bash
# Starts the example's nodes and returns when all answer, or reports which does not and why.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/scripts/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./startNetwork.sh [--replicas N] [--faulty KIND] [--executor docker|process]

Start the nodes of example-config/ in the background, at ports 10000 and up.

  --replicas N         start 1, 3, 4 (default), 7 or 10 nodes
  --faulty KIND        make the last node misbehave: lying (about the exit code), silent,
                       equivocating, delaying, garbling (signatures) or replaying; allowed: start
                       all nodes without a fault, and let people inject one while they run
  --executor process   run builds without Docker and WITHOUT isolation
END
    exit 0
fi
docker=with_docker
if [[ " $* " == *" --executor process "* || " $* " == *" --executor=process "* ]]; then
    docker=without_docker
fi
set_up "$docker"
exec "$VENV_PYTHON" -m scripts.network start "$@"
