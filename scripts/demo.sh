#!/usr/bin/env bash
# The demo: client and network on this machine, four webhooks, and what the nodes agree on.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

usage() {
    cat <<'END'
usage: ./scripts/demo.sh [--replicas N] [--faulty KIND] [--executor docker|process] [--stop]

Start a client and a network of nodes on this machine, post four webhooks, and print each node's
outcomes and the verdicts. Exit code 0 only if every verdict is as expected.

  --replicas N         start 1, 3, 4 (default), 7 or 10 nodes
  --faulty KIND        make the last node misbehave: lying (about the exit code), silent,
                       equivocating, delaying, garbling (signatures) or replaying; allowed: start
                       all nodes without a fault, and let people inject one while they run
  --executor process   run builds without Docker and WITHOUT isolation
  --stop               stop everything at the end (default: leave it running)
END
}

if wants_help "$@"; then
    usage
    exit 0
fi

docker=with_docker
installed="missing Debian packages (git, python3, python3-venv, docker.io, iptables,
apparmor, busybox-static)"
engine="
on a Docker engine that already runs: an image with BusyBox, and containers and volumes of builds;"
if [[ " $* " == *" --executor process "* || " $* " == *" --executor=process "* ]]; then
    docker=without_docker
    installed="missing Debian packages (git, python3, python3-venv)"
    engine=""
fi
cat <<END
This changes nothing except: $installed;$engine
in $ROOT: .venv/, run/, log/.
END
set_up "$docker"
exec "$VENV_PYTHON" -m scripts.demo "$@"
