#!/usr/bin/env bash
# The pictures of docs/images, taken anew from a running system and from the simulator.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/screenshots.sh [--folder FOLDER] [NAME ...]

Take the pictures in docs/images again (all, or those named, as builds.png) with Debian's Chromium.
They show a system that this script starts and stops, and the simulator.
END
    exit 0
fi
set_up without_docker
set_up_requirements requirements-dev.txt
set_up_browser
exec "$VENV_PYTHON" -m tests.browser.screenshots "$@"
