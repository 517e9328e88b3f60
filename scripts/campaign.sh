#!/usr/bin/env bash
# The simulator's whole gate: by hand, and before a release.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/campaign.sh [--processes N]

Run the simulator's whole gate (python -m simulator gate): 2,304 runs, some minutes. Exit code 0
only if no run breaks an invariant, every cell of coverage is reached or has a rule, and every
coverage goal and kind of fault has occurred. ./scripts/test.sh --full does a few of these runs that
reach the same coverage, and other runs.

  --processes N   run N processes at once (default: 2)
END
    exit 0
fi
set_up without_docker
exec "$VENV_PYTHON" -m simulator gate "$@"
