"""The scripts that people type: they work from anywhere and explain themselves."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.folders import ROOT

SCRIPTS = (
    "scripts/demo.sh",
    "scripts/startClient.sh",
    "scripts/test.sh",
    "scripts/campaign.sh",
    "scripts/check.sh",
    "scripts/screenshots.sh",
    "scripts/repository.sh",
    "startNetwork.sh",
    "stopNetwork.sh",
    ".ci/run",
)


def run(arguments: list[str], folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program there, with these variables as well."""
    return subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def sourced(commands: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run commands in a shell that has sourced setup.sh; they have no arguments."""
    text = f'source "{ROOT}/scripts/setup.sh"; {commands}'
    return run(["bash", "-c", text, "test-script"], folder, **variables)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_from_any_folder_whatever_the_callers_python_settings(
    script: str, tmp_path: Path
) -> None:
    assert os.access(ROOT / script, os.X_OK)
    for argument in ("--help", "-h"):
        done = run(
            [str(ROOT / script), argument], tmp_path, PYTHONHOME="/nowhere", PYTHONPATH="/nowhere"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ")
        assert script in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_script_finds_the_project(tmp_path: Path) -> None:
    (tmp_path / "stop").symlink_to(ROOT / "stopNetwork.sh")
    assert run([str(tmp_path / "stop"), "--help"], tmp_path).returncode == 0


def test_settings_of_other_projects_are_dropped(tmp_path: Path) -> None:
    done = sourced(
        'echo "[${PYTHONPATH-}${PYTHONHOME-}${GIT_DIR-}${CDPATH-}]"; pwd',
        tmp_path,
        PYTHONPATH="/a",
        PYTHONHOME="/b",
        GIT_DIR="/c",
        CDPATH="/d",
    )
    assert done.stdout.splitlines() == ["[]", str(ROOT)]


def test_nothing_is_missing_where_everything_is_there(tmp_path: Path) -> None:
    # What the tests run with is set up, so nothing but Docker's packages could be missing.
    done = sourced("missing_packages without_docker", tmp_path)
    assert (done.stdout, done.returncode) == ("", 0)


def test_an_engine_that_is_there_needs_no_packages_for_one(tmp_path: Path) -> None:
    # No program is found at all, and the machine has no engine.
    bare = "DOCKER_SOCKET=/nowhere; command() { false; }; missing_docker_packages"
    without = sourced(bare, tmp_path, DOCKER_HOST="").stdout.split()
    assert without[:2] == ["docker.io", "iptables"]
    with_engine = sourced(bare, tmp_path, DOCKER_HOST="unix:///x").stdout.split()
    assert set(with_engine) <= {"busybox-static"}


def test_what_is_missing_is_named_with_the_exact_command(tmp_path: Path) -> None:
    as_a_user = 'id() { echo 1000; }; is_debian() { return 0; }; install_packages git "docker.io"'
    done = sourced(as_a_user, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    wanted = "apt-get update && apt-get install -y --no-install-recommends git docker.io"
    assert wanted in done.stderr
    assert "./scripts/demo.sh --executor process" in done.stderr


def test_the_demo_names_every_package_that_it_may_install() -> None:
    text = (ROOT / "scripts" / "setup.sh").read_text()
    functions = text.split("\nmissing_packages() {")[1].split("\ninstall_packages() {")[0]
    packages = set(re.findall(r"echo ([a-z][a-z0-9.-]*)", functions))
    assert packages > {"git", "python3-venv", "docker.io"}
    said = (ROOT / "scripts" / "demo.sh").read_text().partition("installed=")[2]
    assert all(package in said for package in packages | {"python3, "})


def test_other_systems_are_told_the_names(tmp_path: Path) -> None:
    done = sourced("is_debian() { return 1; }; install_packages git", tmp_path)
    assert done.returncode == 1
    assert "missing Debian packages: git; install them" in done.stderr


def test_an_old_python_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3", "python3.11"):
        # Any program that fails when asked for its version.
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    done = sourced("find_python", tmp_path, PATH=f"{folder}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert not done.stdout.startswith(str(folder))


def test_the_stamp_follows_the_requirements(tmp_path: Path) -> None:
    first = sourced("stamp", tmp_path).stdout
    copied = (
        f'cd "{tmp_path}"; cp "$ROOT/requirements.txt" .; stamp; '
        "echo '# x' >>requirements.txt; stamp"
    )
    same, other = sourced(copied, tmp_path).stdout.split()
    assert same == first.strip()
    assert other != same


def test_more_requirements_are_installed_once_and_when_they_change(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "more.txt").write_text("one==1\n")
    commands = (
        f'cd "{tmp_path}"; install_requirements() {{ echo "$1"; }}; set_up_requirements more.txt; '
        "set_up_requirements more.txt; echo two==2 >>more.txt; set_up_requirements more.txt"
    )
    assert sourced(commands, tmp_path).stdout.split() == ["more.txt", "more.txt"]
    assert sourced(commands.split(";")[0] + "; ls .venv", tmp_path).stdout.split() == [
        "more.sha256"
    ]


PRETENDED_UV = """#!/bin/bash
mkdir .venv/uv-cache
echo "uv $UV_DEFAULT_INDEX $UV_FIND_LINKS ${*: -3}"
exit "$UV_EXIT"
"""
PRETENDED_PIP = """run_pip() {
    case "$*" in
        config*) echo "global.index-url='https://one.example'"; echo "global.find-links='/one'" ;;
        *requirements-uv.txt) [[ "$*" == *"--require-hashes "* && "$HAS_UV" == yes ]] ;;
        *) echo "pip ${*: -4}" ;;
    esac
}
"""


@pytest.mark.parametrize(
    ("has_uv", "uv_exit"), [("yes", 0), ("yes", 2), ("no", 0)], ids=["uv", "uv fails", "no uv"]
)
def test_uv_installs_from_pips_servers_and_else_pip_does(
    tmp_path: Path, has_uv: str, uv_exit: int
) -> None:
    """Both only what has the hashes of the file."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    shutil.copy(ROOT / "requirements-uv.txt", tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    uv = tmp_path / ".venv/bin/uv"
    uv.write_text(PRETENDED_UV)
    uv.chmod(0o755)
    commands = (
        f'cd "{tmp_path}"; VENV_PYTHON="{sys.executable}"; {PRETENDED_PIP}'
        "install_requirements more.txt"
    )
    # what is set for uv itself counts more
    variables = {"HAS_UV": has_uv, "UV_EXIT": str(uv_exit), "UV_FIND_LINKS": "/two"}
    done = sourced(commands, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    is_pip = has_uv == "no" or uv_exit != 0
    assert done.stdout == "pip --require-hashes --no-compile -r more.txt\n" * is_pip
    assert done.stderr.count("uv does not install more.txt here (see run/uv.log)") == is_pip
    called = (tmp_path / "run/uv.log").read_text()
    wanted = "uv https://one.example /two --require-hashes -r more.txt\n"
    assert called == wanted * (has_uv == "yes")
    assert not (tmp_path / ".venv/uv-cache").exists()


@pytest.mark.parametrize("user", [0, 1000])
def test_where_no_browser_can_be_had_the_tests_go_on(tmp_path: Path, user: int) -> None:
    commands = (
        "set_up_requirements() { :; }; command() { false; }; is_debian() { true; }; "
        f"id() {{ echo {user}; }}; apt_get() {{ false; }}; cd {tmp_path}; mkdir run; "
        "set_up_browser; echo went on"
    )
    done = sourced(commands, tmp_path)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "the tests of the pages in a browser are skipped" in done.stderr
    assert ("could not install chromium-headless-shell" in done.stderr) is (user == 0)


PRETENDED_PYTHON = """#!/bin/bash
[[ "$2" == mypy ]] || exit 0
echo "${*:3}" >>mypy-calls
[[ -n "${3-}" ]] || exit 0
mkdir -p "$4" && touch "$4/kept"
exit "$MYPY_EXIT"
"""


@pytest.mark.parametrize(
    ("mypy_exit", "is_held", "own_runs", "code"),
    [(0, False, 0, 0), (1, False, 0, 1), (2, False, 1, 0), (0, True, 1, 0)],
    ids=["good", "errors", "damaged", "in use"],
)
def test_what_mypy_found_out_is_kept_outside_of_the_checkout(
    tmp_path: Path, mypy_exit: int, is_held: bool, own_runs: int, code: int
) -> None:
    """Not where another check is at it; and where mypy fails with it, it goes."""
    checkout, kept = tmp_path / "checkout", tmp_path / "cache" / "pbft-ci"
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / "scripts").mkdir()
    kept.mkdir(parents=True)
    for name in ("check.sh", "setup.sh"):
        shutil.copy(ROOT / "scripts" / name, checkout / "scripts")
    for name in ("requirements", "requirements-dev"):
        content = (ROOT / f"{name}.txt").read_bytes()
        (checkout / f"{name}.txt").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (checkout / ".venv" / f"{name}.sha256").write_text(f"{digest}\n")
    python = checkout / ".venv/bin/python"
    python.write_text(PRETENDED_PYTHON)
    python.chmod(0o755)
    with (kept / "mypy.lock").open("w") as lock:
        if is_held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(
            [str(checkout / "scripts/check.sh")],
            tmp_path,
            XDG_CACHE_HOME=str(kept.parent),
            MYPY_EXIT=str(mypy_exit),
        )
    assert done.returncode == code, done.stderr
    calls = (checkout / "mypy-calls").read_text().splitlines()
    assert calls == [f"--cache-dir {kept}/mypy"] * (not is_held) + [""] * own_runs
    assert (kept / "mypy/kept").exists() == (own_runs == 0)
