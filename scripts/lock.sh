#!/usr/bin/env bash
# Writes requirements.txt and requirements-dev.txt: versions and hashes of what pyproject.toml names.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"

if wants_help "$@"; then
    cat <<'END'
usage: ./scripts/lock.sh [--upgrade | --upgrade-package NAME]

Write requirements.txt (what runs) and requirements-dev.txt (what tests it) from pyproject.toml:
each package and its dependencies, with the hashes of all files that the package index has of them.
Write requirements-uv.txt, too: uv, which locks here and installs in the other scripts. Without
options keep the locked versions. Use uv, in a temporary folder.
END
    exit 0
fi

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$(find_python)" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt

# $1: the file; $2: what names the packages; the others: options of uv.
lock() {
    local file="$1" named="$2" name
    shift 2
    cp "$file" "$folder/$file"
    # One file for every Python from 3.11 on and for every platform.
    "$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --annotation-style line --no-header "$named" --output-file "$folder/$file" "$@" >/dev/null
    # Packages are written as pyproject.toml writes them.
    for name in $(sed -n 's/^    "\([A-Za-z0-9-]*\)",$/\1/p' pyproject.toml); do
        sed -i "s/^${name,,}==/$name==/" "$folder/$file"
    done
}

echo uv >"$folder/uv.in"
lock requirements-uv.txt "$folder/uv.in" "$@"
{
    echo "# What installs the packages of the other two files. Written by scripts/lock.sh."
    sed '/^ *# via/d' "$folder/requirements-uv.txt"
} >requirements-uv.txt
lock requirements.txt pyproject.toml "$@"
{
    echo "# What runs PBFT/CI. Written by scripts/lock.sh from pyproject.toml."
    cat "$folder/requirements.txt"
} >requirements.txt
mapfile -t run < <(sed -n 's/^\([A-Za-z0-9-]*\)==.*/--no-emit-package=\1/p' requirements.txt)
lock requirements-dev.txt pyproject.toml --group dev --constraint requirements.txt "${run[@]}" "$@"
{
    echo "# What tests PBFT/CI, beside what runs it. Written by scripts/lock.sh from pyproject.toml."
    echo "-r requirements.txt"
    cat "$folder/requirements-dev.txt"
} >requirements-dev.txt
