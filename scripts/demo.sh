#!/usr/bin/env bash
# The demo: client and network on this machine, four webhooks, and what the nodes agree on.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

usage() {
    cat <<'END'
usage: ./scripts/demo.sh [--replicas N] [--faulty KIND] [--executor docker|process] [--stop]

Starts a client and a network of nodes on this machine, posts four webhooks, and prints what each
node found and what they agreed on. Exit code 0 only if every verdict is as it should be.

  --replicas N         1, 3, 4 (default), 7 or 10 nodes
  --faulty KIND        the last node misbehaves: lying (about the exit code), silent, equivocating,
                       delaying, garbling (signatures) or replaying; allowed: none does, and each
                       may be told to while it runs
  --executor process   run builds without Docker and WITHOUT isolation
  --stop               stop everything at the end; otherwise it is left running
END
}

if wants_help "$@"; then
    usage
    exit 0
fi

docker=with_docker
installed="Debian packages that are missing (git, python3, python3-venv, docker.io, iptables,
apparmor, busybox-static)"
engine="
on a Docker engine that runs already: an image with BusyBox, and what builds need while they run;"
if [[ " $* " == *" --executor process "* || " $* " == *" --executor=process "* ]]; then
    docker=without_docker
    installed="Debian packages that are missing (git, python3, python3-venv)"
    engine=""
fi
cat <<END
This may change, and nothing else: $installed;$engine
in $ROOT: .venv/, run/, log/.
END
set_up "$docker"
exec "$VENV_PYTHON" -m scripts.demo "$@"
