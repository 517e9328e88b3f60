#!/usr/bin/env bash
# The example's client (webhooks at port 8080) in the foreground; Ctrl-C stops it.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/startClient.sh [--replicas N]

Run the client with example-config/client.yml in the foreground. You may start it before the network.

  --replicas N   run the client of a network that was started with N nodes
END
    exit 0
fi
set_up without_docker
exec "$VENV_PYTHON" -m scripts.network client "$@"
