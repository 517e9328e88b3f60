"""The files of requirements hold what pyproject.toml names, and uv, with hashes."""

import re
import tomllib

import pytest

from scripts.folders import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = {
    "requirements.txt": PROJECT["project"]["dependencies"],
    "requirements-dev.txt": PROJECT["dependency-groups"]["dev"],
    "requirements-uv.txt": ["uv"],
}


def entries(file: str) -> list[str]:
    """The logical lines of a file, without comments and without other files."""
    joined = (ROOT / file).read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and line.lstrip()[0] not in "#-"]


@pytest.mark.parametrize("file", NAMED)
def test_each_package_has_a_version_and_hashes(file: str) -> None:
    for entry in entries(file):
        assert re.fullmatch(
            r"[\w.-]+==[\w.]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry
        )


@pytest.mark.parametrize("file", NAMED)
def test_what_the_project_names_is_there(file: str) -> None:
    """If not: ./scripts/lock.sh."""
    assert set(NAMED[file]) <= {entry.partition("==")[0] for entry in entries(file)}


def test_what_runs_stands_once() -> None:
    """requirements-dev.txt includes it, and so cannot name another version."""
    assert "\n-r requirements.txt\n" in (ROOT / "requirements-dev.txt").read_text()
    files = ("requirements.txt", "requirements-dev.txt")
    run, dev = ({entry.partition("==")[0] for entry in entries(file)} for file in files)
    assert not run & dev


def test_the_tests_have_what_builds_the_package() -> None:
    """In the same version, so that they build without fetching anything."""
    (backend,) = PROJECT["build-system"]["requires"]
    assert backend in {entry.split()[0] for entry in entries("requirements-dev.txt")}
