#!/usr/bin/env bash
# Makes the container image of this checkout on the Docker engine of this machine.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END_OF_HELP'
usage: ./scripts/container_image.sh [--name NAME]

Make the container image of node, gateway and command line on the engine of DOCKER_HOST, or of this
machine. As root, on Debian or Ubuntu. The first run fetches a Debian system and keeps it in run/cache.

  --name NAME   another name than pbft-ci:VERSION
END_OF_HELP
    exit 0
fi

set_up without_docker
set_up_requirements requirements-dev.txt
packages=()
command -v mmdebstrap >/dev/null || packages+=(mmdebstrap)
command -v strip >/dev/null || packages+=(binutils)
if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
exec "$VENV_PYTHON" -m scripts.container_image "$@"
