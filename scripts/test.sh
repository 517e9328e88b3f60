#!/usr/bin/env bash
# All tests; the last line is pytest's own.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

MEMORY_FOLDER=/dev/shm
# How long it should take on two quiet cores, with all set-up but that of a bare machine. The run
# ends by saying how long it took.
export PBFT_CI_BUDGET_SECONDS="${PBFT_CI_BUDGET_SECONDS:-360}"
# All that the tests write is about 1 GiB; the tests themselves and their builds need memory too.
FOLDER_KIBIBYTES_MIN=$((4 * 1024 * 1024))
MEMORY_KIBIBYTES_MIN=$((6 * 1024 * 1024))

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/test.sh [--full] [--without-docker] [arguments of pytest]

Run the tests, without the long ones.

  --full             also run the long tests, instead of the short ones that they contain, and every
                     bench once
  --without-docker   skip (and count) the tests that need Docker; otherwise they fail without it

Example: ./scripts/test.sh tests/pbft -k checkpoint
END
    exit 0
fi

# True where the folders of the tests may lie in memory: there thousands of syncs cost nothing. No
# test cuts the power: what a disk may lose is tried with a recorded one. Tests start programs there.
has_memory_to_spare() {
    local folder memory
    if grep -Eqs "^[^ ]+ $MEMORY_FOLDER [^ ]+ ([^ ]*,)?noexec[, ]" /proc/self/mounts; then return 1; fi
    folder="$(df --output=avail -k "$MEMORY_FOLDER" 2>/dev/null | tail -n 1)" || return 1
    memory="$(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo)" || return 1
    [[ -w "$MEMORY_FOLDER" ]] && ((folder >= FOLDER_KIBIBYTES_MIN && memory >= MEMORY_KIBIBYTES_MIN))
}

started_engine=no
folder_in_memory=""
clean_up() {
    if [[ "$started_engine" == "yes" ]]; then
        "$VENV_PYTHON" -m scripts.docker_engine stop >/dev/null 2>&1 || true
    fi
    if [[ -n "$folder_in_memory" ]]; then rm -rf "$folder_in_memory"; fi
}
trap clean_up EXIT

docker=with_docker
selection=(-m "not long")
arguments=()
is_full=no
for argument in "$@"; do
    case "$argument" in
        --full)
            selection=(-m "not short")
            is_full=yes
            ;;
        --without-docker) docker=without_docker ;;
        *) arguments+=("$argument") ;;
    esac
done
set_up "$docker"
set_up_requirements requirements-dev.txt
if ((!${#arguments[@]})) && [[ ! -d tests/__pycache__ ]]; then
    # A new clone: else each of the workers compiles all tests for itself.
    PBFT_CI_TEST_RUN=compile "$VENV_PYTHON" -m pytest --collect-only -q >/dev/null 2>&1 &
fi
set_up_servers
set_up_browser
if [[ "$is_full" == "yes" ]]; then set_up_full_tests; fi
if [[ "$docker" == "with_docker" ]]; then
    # An engine that was started for the tests ends with them; one that ran before stays.
    if ! "$VENV_PYTHON" -m scripts.docker_engine running; then started_engine=yes; fi
    if ! DOCKER_HOST="$("$VENV_PYTHON" -m scripts.docker_engine ensure)"; then
        fail "the tests need Docker; without it: ./scripts/test.sh --without-docker"
    fi
    export DOCKER_HOST
else
    export PBFT_CI_WITHOUT_DOCKER=1
fi
# for what compiles
wait
code=0
# Most tests wait, for containers and for each other: five workers keep two cores busy.
workers=(--numprocesses "$((5 * $(nproc) / 2))")
if ((${#arguments[@]})); then
    workers=()
elif has_memory_to_spare; then
    # A short name: sockets of Unix have paths of 107 bytes at most.
    folder_in_memory="$(mktemp -d "$MEMORY_FOLDER/pbft.XXXX")"
    export PYTEST_DEBUG_TEMPROOT="$folder_in_memory"
fi
"$VENV_PYTHON" -m pytest "${workers[@]}" "${selection[@]}" "${arguments[@]}" || code=$?
exit "$code"
