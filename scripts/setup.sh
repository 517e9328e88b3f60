# shellcheck shell=bash
# Sourced by the scripts that people type: sets the machine up as far as it is not, with bounds on time.
#
#   source scripts/setup.sh
#   set_up with_docker | without_docker     # packages, .venv; afterwards: $VENV_PYTHON
#   set_up_requirements requirements-dev.txt     # what tests need beside, into the same .venv
#
# What may change: Debian packages (as root only), .venv/, run/, log/.

set -euo pipefail

if [[ -z "${BASH_VERSINFO:-}" ]] || ((BASH_VERSINFO[0] < 4)); then
    echo "this bash is too old; install bash 4 or newer" >&2
    exit 1
fi

# The caller's Python and git settings are for other projects; CDPATH would make `cd` print.
for name in "${!PYTHON@}"; do unset "$name"; done
unset name CDPATH GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_COMMON_DIR \
    GIT_NAMESPACE GIT_PREFIX GIT_CEILING_DIRECTORIES GIT_ALTERNATE_OBJECT_DIRECTORIES

ROOT="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)"
cd -- "$ROOT"
VENV_PYTHON="$ROOT/.venv/bin/python"

DOCKER_SOCKET=/var/run/docker.sock
# Slow mirrors need minutes; what takes longer than this hangs.
APT_SECONDS_MAX=900
PIP_SECONDS_MAX=900
UNPACK_SECONDS_MAX=120
LOCK_SECONDS_MAX=2000
# Prints the file of the pip that Python, or Debian's python3-venv, brings for new environments.
FIND_PIP="
import ensurepip, pathlib
folders = pathlib.Path(ensurepip.__file__).parent / '_bundled', pathlib.Path('/usr/share/python-wheels')
print(next((file for folder in folders for file in sorted(folder.glob('pip-*.whl'))), ''))
"
# When this script began, for "from start to the first verdict".
export PBFT_CI_STARTED="${PBFT_CI_STARTED:-$(date +%s)}"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$(basename -- "$0"): $*"
    exit 1
}

# True where one of the arguments asks for help.
wants_help() {
    local argument
    for argument in "$@"; do
        [[ "$argument" == "-h" || "$argument" == "--help" ]] && return 0
    done
    return 1
}

is_debian() {
    command -v apt-get >/dev/null && grep -Eqs '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release
}

# The first Python that is new enough; prints its path, or nothing.
find_python() {
    local candidate path
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        path="$(command -v "$candidate")" || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$path"
            return
        fi
    done
}

# The Debian packages that are missing, one per line. $1: with_docker or without_docker.
missing_packages() {
    local python
    command -v git >/dev/null || echo git
    if ! venv_is_ready; then
        python="$(find_python)"
        if [[ -z "$python" ]]; then
            printf '%s\n' python3 python3-venv
        elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            # Debian's Python comes without ensurepip, which is in a package of its own.
            if [[ "$(basename -- "$python")" == "python3" ]]; then
                echo python3-venv
            else
                echo "$(basename -- "$python")-venv"
            fi
        fi
    fi
    if [[ "$1" == "with_docker" ]]; then missing_docker_packages; fi
}

missing_docker_packages() {
    # An engine that is there already is used; only without one we start our own.
    if [[ -z "${DOCKER_HOST:-}" && ! -S "$DOCKER_SOCKET" ]]; then
        PATH="$PATH:/usr/sbin:/sbin" command -v dockerd >/dev/null || echo docker.io
        PATH="$PATH:/usr/sbin:/sbin" command -v iptables >/dev/null || echo iptables
        # Where the kernel has AppArmor switched on, no container starts without its parser.
        if grep -qs Y /sys/module/apparmor/parameters/enabled; then
            PATH="$PATH:/usr/sbin:/sbin" command -v apparmor_parser >/dev/null || echo apparmor
        fi
    fi
    # The example's image is made of it where none can be pulled.
    if [[ ! -x /bin/busybox || "$(ldd /bin/busybox 2>&1)" == *libc.* ]]; then echo busybox-static; fi
}

install_packages() {
    local command="apt-get install -y --no-install-recommends $*"
    if ! is_debian; then
        fail "missing Debian packages: $*; install them under the names of your system, then start this again"
    fi
    if [[ "$(id -u)" -ne 0 ]]; then
        fail "missing packages; as root, run: apt-get update && $command" \
            "(without Docker: ./scripts/demo.sh --executor process)"
    fi
    say "installing Debian packages: $* (at most $APT_SECONDS_MAX s) ..."
    if ! apt_get install "$@" >run/apt.log 2>&1; then
        # Most often the lists of packages are missing or old.
        say "fetching the lists of packages first (at most $APT_SECONDS_MAX s) ..."
        apt_get update >>run/apt.log 2>&1 || true
        if ! apt_get install "$@" >>run/apt.log 2>&1; then
            tail -n 5 run/apt.log >&2
            fail "could not install $*; the whole output is in run/apt.log; try: apt-get update && $command"
        fi
    fi
}

# Descriptor 9 is the lock: a daemon that a package starts must not keep it.
apt_get() {
    local action="$1"
    shift
    DEBIAN_FRONTEND=noninteractive timeout --foreground --kill-after=10 "$APT_SECONDS_MAX" \
        apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 -y --no-install-recommends \
        "$action" "$@" </dev/null 9>&-
}

# The programs that some tests need, where they are missing (as root only). Without them those tests
# are skipped and counted.
set_up_full_tests() {
    local packages=()
    command -v openssl >/dev/null || packages+=(openssl)
    # Ordinary projects are built in an image of Debian, which it makes; so is the image of releases.
    command -v mmdebstrap >/dev/null || packages+=(mmdebstrap)
    command -v strip >/dev/null || packages+=(binutils)
    # The trial cluster is started with it.
    command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 ||
        packages+=(docker-compose)
    if is_debian && [[ "$(id -u)" -eq 0 ]] && ((${#packages[@]})); then install_packages "${packages[@]}"; fi
}

# The servers that the tests of private repositories and of images start, where they are missing,
# the client of one, and the programs that load the egress filter, judge services, check the alert
# rules and move a clock. They are unpacked and not installed, so that no server starts on this
# machine by itself. Without them those tests are skipped and counted.
set_up_servers() {
    local server program packages=() missing=() wanted=() fetched
    # A program, and Debian's packages of it.
    for server in "sshd openssh-server libwrap0" "docker-registry docker-registry" "ssh openssh-client" \
        "nft nftables libnftables1 libjansson4" "systemd-analyze systemd libsystemd-shared" \
        "promtool prometheus" "faketime faketime libfaketime"; do
        read -ra packages <<<"$server"
        program="${packages[0]}"
        if PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$program" >/dev/null; then continue; fi
        if [[ -d "run/$program" ]] || ! is_debian; then continue; fi
        missing+=("$server")
        wanted+=("${packages[@]:1}")
    done
    if ((${#missing[@]})); then
        say "unpacking Debian's ${wanted[*]} into run/, for the tests (at most $UNPACK_SECONDS_MAX s each) ..."
        fetched="$(mktemp -d "$ROOT/run/packages.XXXXXX")"
        # All in one call, which takes no longer than each by itself. If one is not to be had none comes;
        # then each is fetched alone.
        download "$fetched" "${wanted[@]}" >run/packages.log 2>&1 || true
        for server in "${missing[@]}"; do
            read -ra packages <<<"$server"
            unpack "$fetched" "${packages[@]}"
        done
        rm -rf "$fetched"
    fi
    # git looks for it in the path
    export PATH="$PATH:$ROOT/run/ssh/usr/bin"
}

# $1: a folder with what was fetched; $2: a program; the others: its packages, which go into run/$2.
unpack() {
    local fetched="$1" program="$2" draft package
    shift 2
    draft="$(mktemp -d "run/$program-draft.XXXXXX")"
    for package in "$@"; do mv "$fetched/${package}"_*.deb "$draft" 2>/dev/null || true; done
    if { [[ "$(find "$draft" -name '*.deb' | wc -l)" -eq "$#" ]] || download "$draft" "$@"; } \
        >"run/$program.log" 2>&1 && unpack_all "$draft" >>"run/$program.log" 2>&1; then
        mv "$draft" "run/$program"
    else
        rm -rf "$draft"
        say "$program is missing: its tests are skipped (see run/$program.log)"
    fi
}

# $1: a folder; the others: packages. As root the lists of packages are fetched where they are missing.
download() {
    local folder="$1"
    shift
    download_once "$folder" "$@" && return
    [[ "$(id -u)" -eq 0 ]] && apt_get update && download_once "$folder" "$@"
}

download_once() {
    (cd "$1" && timeout --foreground --kill-after=10 "$UNPACK_SECONDS_MAX" \
        apt-get -o Acquire::Retries=2 download "${@:2}" </dev/null)
}

unpack_all() {
    local package
    for package in "$1"/*.deb; do
        dpkg-deb -x "$package" "$1" || return 1
        rm "$package"
    done
}

# A browser for the tests of the pages, where there is none (as root only): Debian's Chromium
# without its windows, which needs neither a desktop nor a message bus. What drives it, a Node.js
# that comes with playwright, needs a library that a bare system lacks. Without both those tests
# are skipped and counted.
set_up_browser() {
    local missing=()
    if ! command -v chromium >/dev/null && ! command -v chromium-headless-shell >/dev/null; then
        missing+=(chromium-headless-shell)
    fi
    if ! "$VENV_PYTHON" -m playwright --version >/dev/null 2>&1; then missing+=(libatomic1); fi
    if [[ ${#missing[@]} -eq 0 ]]; then return; fi
    if ! is_debian || [[ "$(id -u)" -ne 0 ]] || ! (install_packages "${missing[@]}"); then
        say "missing: ${missing[*]}; the tests of the pages in a browser are skipped"
    fi
}

# What .venv was made from: when it changes, .venv is brought up to date. $1: the file.
stamp() { sha256sum <"${1:-requirements.txt}" | cut -d ' ' -f 1; }

venv_is_ready() {
    [[ -x "$VENV_PYTHON" ]] && "$VENV_PYTHON" -c '' 2>/dev/null &&
        [[ "$(cat .venv/requirements.sha256 2>/dev/null)" == "$(stamp)" ]]
}

make_venv() {
    local python
    if ! { [[ -x "$VENV_PYTHON" ]] && "$VENV_PYTHON" -c '' 2>/dev/null; }; then
        python="$(find_python)"
        [[ -n "$python" ]] || fail "no Python 3.11 or newer in PATH; install one, then start this again"
        say "making .venv with $("$python" --version) ..."
        # To install pip takes longer than to install all else with uv.
        "$python" -m venv --clear --without-pip .venv 9>&- ||
            fail "could not make .venv; install python3-venv, then start this again"
    fi
    install_requirements requirements.txt
    stamp >.venv/requirements.sha256
}

# $1: a file of packages with their versions and hashes: a file that has another hash is refused.
# uv does what pip does, in a third of the CPU. It asks the servers that pip's settings name.
install_requirements() {
    say "installing Python packages into .venv (at most $PIP_SECONDS_MAX s) ..."
    if fetch_uv >run/uv.log 2>&1 && find_uv_settings 2>>run/uv.log && uv_install "$1" >>run/uv.log 2>&1; then
        return
    fi
    say "uv does not install $1 here (see run/uv.log); pip does, which takes longer"
    run_pip install --quiet --require-hashes --no-compile -r "$1" ||
        fail "pip could not install $1 (see above); start this again to try again"
}

# Exit code 0 only if .venv has the uv that requirements-uv.txt names.
fetch_uv() {
    [[ "$(cat .venv/requirements-uv.sha256 2>/dev/null)" == "$(stamp requirements-uv.txt)" ]] && return
    # Nobody waits until it is compiled on a machine for which there is no file of it.
    run_pip install --quiet --require-hashes --no-compile --only-binary :all: -r requirements-uv.txt || return 1
    stamp requirements-uv.txt >.venv/requirements-uv.sha256
}

# Once in a script, since pip takes a second to print its settings.
uv_settings=unknown
find_uv_settings() {
    [[ "$uv_settings" != unknown ]] ||
        uv_settings="$(run_pip config list | "$VENV_PYTHON" -m scripts.uv_settings)" || return 1
}

# Packages are compiled when they are first imported: most modules never are.
uv_install() (
    local setting name result=0 cache=.venv/uv-cache
    while IFS= read -r setting; do
        name="${setting%%=*}"
        # what somebody set for uv counts more
        if [[ -n "$name" && -z "${!name:-}" ]]; then export "$name=${setting#*=}"; fi
    done <<<"$uv_settings"
    # Its cache is in .venv, so that files are linked and not copied; nothing outside of it changes. As with
    # pip, any index may have a package: its hash says whether it is the right one.
    timeout --foreground --kill-after=10 "$PIP_SECONDS_MAX" .venv/bin/uv pip install --quiet \
        --python "$VENV_PYTHON" --cache-dir "$cache" --index-strategy unsafe-best-match \
        --require-hashes -r "$1" 9>&- || result=$?
    rm -rf "$cache"
    exit "$result"
)

# .venv's pip. Where it has none, the one that Python has for new environments runs from its file.
run_pip() {
    local file=""
    if ! "$VENV_PYTHON" -c 'import pip' 2>/dev/null; then
        file="$("$VENV_PYTHON" -c "$FIND_PIP")"
        if [[ -z "$file" ]]; then "$VENV_PYTHON" -m ensurepip >&2 || return 1; fi
    fi
    PYTHONPATH="$file" timeout --foreground --kill-after=10 "$PIP_SECONDS_MAX" "$VENV_PYTHON" -m pip \
        --no-input --disable-pip-version-check --timeout 30 --retries 3 "$@" 9>&-
}

# $1: a file of more such packages, for those scripts that need them.
set_up_requirements() {
    local made=".venv/${1%.txt}.sha256"
    if [[ "$(cat "$made" 2>/dev/null)" == "$(stamp "$1")" ]]; then return; fi
    hold_lock
    if [[ "$(cat "$made" 2>/dev/null)" != "$(stamp "$1")" ]]; then
        install_requirements "$1"
        stamp "$1" >"$made"
    fi
    exec 9>&-
}

# Two scripts may be started at once: one waits for the other. `exec 9>&-` lets go.
hold_lock() {
    mkdir -p run log
    exec 9>run/setup.lock
    if ! flock --nonblock 9; then
        say "waiting for another set-up that is running (at most $LOCK_SECONDS_MAX s) ..."
        flock --wait "$LOCK_SECONDS_MAX" 9 || fail "another set-up still holds run/setup.lock; wait for its end, then start this again"
    fi
}

# $1: with_docker or without_docker.
set_up() {
    hold_lock
    local packages
    mapfile -t packages < <(missing_packages "$1")
    if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
    venv_is_ready || make_venv
    exec 9>&-
}
