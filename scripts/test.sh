#!/usr/bin/env bash
# All tests; the last line is pytest's own.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/test.sh [--full] [--without-docker] [arguments of pytest]

  --full             the long tests too, and every bench once (python -m bench all --quick)
  --without-docker   skip (and count) the tests that need Docker; otherwise they fail without it

Example: ./scripts/test.sh tests/pbft -k checkpoint
END
    exit 0
fi
docker=with_docker
selection=(-m "not long")
arguments=()
is_full=no
for argument in "$@"; do
    case "$argument" in
        --full)
            selection=()
            is_full=yes
            ;;
        --without-docker) docker=without_docker ;;
        *) arguments+=("$argument") ;;
    esac
done
set_up "$docker"
set_up_servers
set_up_browser
if [[ "$is_full" == "yes" ]]; then set_up_full_tests; fi
if [[ "$docker" == "with_docker" ]]; then
    # An engine that was started for the tests ends with them; one that ran before stays.
    if ! "$VENV_PYTHON" -m scripts.docker_engine running; then
        trap '"$VENV_PYTHON" -m scripts.docker_engine stop >/dev/null 2>&1 || true' EXIT
    fi
    if ! DOCKER_HOST="$("$VENV_PYTHON" -m scripts.docker_engine ensure)"; then
        fail "the tests need Docker; without it: ./scripts/test.sh --without-docker"
    fi
    export DOCKER_HOST
else
    export PBFT_CI_WITHOUT_DOCKER=1
fi
code=0
# Whether each bench runs to its end; how fast it is asserts nothing. Not where single tests are asked for.
if [[ "$is_full" == "yes" ]] && ((${#arguments[@]} == 0)); then
    options=(--quick)
    if [[ "$docker" == "without_docker" ]]; then options+=(--without-docker); fi
    "$VENV_PYTHON" -m bench all "${options[@]}" || code=1
fi
# Most tests wait for disks, containers and each other: two workers take little more than half the time.
workers=(--numprocesses 2)
if ((${#arguments[@]})); then workers=(); fi
"$VENV_PYTHON" -m pytest "${workers[@]}" "${selection[@]}" "${arguments[@]}" || code=$?
exit "$code"
