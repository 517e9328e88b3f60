#!/usr/bin/env bash
# Adds a repository to all members of the example's cluster at once, or removes one, while they run.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/repository.sh add URL [KEY=VALUE ...]
       ./scripts/repository.sh remove URL

Change the repositories of node0.yml to node3.yml and client.yml in example-config/, and of the files
that a running network was started with. Check all files before any is changed. Have what runs read
its file, without a restart.

URL is a URL or a path. KEY=VALUE is a further key of the entry, as unsigned_allowed=true or
forge=github. Keys that only a gateway or only a node has go to those alone.
END
    exit 0
fi
set_up without_docker
exec "$VENV_PYTHON" -m scripts.repositories "$@"
