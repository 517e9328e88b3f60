"""Addresses of other repositories in a tree: what they mean, against git, and what is refused."""

import subprocess
from pathlib import Path

import pytest

from node.sources.gitmodules import AddressRefused, parse_listing, plain_address, resolve_address

PARENT = "https://git.example.org/team/project.git"


@pytest.mark.parametrize(
    ("parent", "address", "expected"),
    [
        (PARENT, "../lib.git", "https://git.example.org/team/lib.git"),
        (PARENT, "../../other/lib", "https://git.example.org/other/lib"),
        (PARENT, "./sub.git", "https://git.example.org/team/project.git/sub.git"),
        (PARENT + "/", "../lib/", "https://git.example.org/team/lib"),
        ("git@example.org:team/project.git", "../lib.git", "git@example.org:team/lib.git"),
        ("git@example.org:project.git", "../lib.git", "git@example.org:lib.git"),
        ("ssh://git@example.org:22/a/b", "../c", "ssh://git@example.org:22/a/c"),
        ("file:///srv/git/project", "../lib", "file:///srv/git/lib"),
        (PARENT, "https://elsewhere.example.org/a.git", "https://elsewhere.example.org/a.git"),
        (PARENT, "git@elsewhere.example.org:a.git", "git@elsewhere.example.org:a.git"),
    ],
)
def test_where_a_module_is(parent: str, address: str, expected: str) -> None:
    assert resolve_address(parent, address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc", "/etc", "ext::sh -c id", "fd::3", "-u./payload", "--upload-pack=id", ""),
        *("../../../x", "../../../../x", "../a/../../b", "../", "./", "..", "relative/path"),
        *("https://user:secret@example.org/a", "../a b", "../a\nb", "../a//b", "ftp://x/y"),
        *("https://example.org/a\x00b", "../" + "a" * 2000, "../..", "../.", "http:///x y"),
    ],
)
def test_addresses_that_are_refused_whoever_runs_the_replica(address: str) -> None:
    found = resolve_address(PARENT, address)
    assert isinstance(found, AddressRefused)
    assert "secret" not in found.problem


def test_ends_that_may_be_left_out() -> None:
    same = {"https://x/a", "https://x/a/", "https://x/a.git", "https://x/a.git/"}
    assert {plain_address(address) for address in same} == {"https://x/a"}


def listing_of(folder: Path, text: str) -> bytes:
    """As git prints the file."""
    file = folder / "modules"
    file.write_text(text)
    return subprocess.run(
        ["git", "config", "-z", "--file", str(file), "--list"], check=True, capture_output=True
    ).stdout


def test_what_a_file_says(tmp_path: Path) -> None:
    listing = listing_of(
        tmp_path,
        """
[submodule "a.b"]
    path = libs/one/
    url = ../one.git
[submodule "two"]
    PATH = "libs/t wo"
    url = https://example.org/two # a comment
    update = checkout
[submodule "never"]
    path = never
    url = ../never
    update = none
[submodule "no url"]
    path = nothing
[submodule]
    path = x
    url = y
[core]
    hooksPath = /tmp/evil
[alias]
    x = !id
""",
    )
    assert parse_listing(listing) == {
        "libs/one": "../one.git",
        "libs/t wo": "https://example.org/two",
    }
    assert parse_listing(b"") == {}
