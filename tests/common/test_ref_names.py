"""common.ref_names: the grammar of branches, refs and commits, against git itself."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.ref_names import check_branch_name, check_commit, check_ref, ref_of

NAMES = st.text(
    alphabet=st.sampled_from("ab/.-@{}~^:?*[\\ \x01\x7f\t.lock"), min_size=1, max_size=12
)


@settings(max_examples=150, deadline=None)
@given(NAMES | st.text(min_size=1, max_size=8))
def test_branch_names_are_judged_as_git_judges_them(name: str) -> None:
    try:
        reference = f"refs/heads/{name}".encode()
    except UnicodeEncodeError:
        assert check_branch_name(name) is not None
        return
    if b"\0" in reference:
        assert check_branch_name(name) is not None
        return
    answer = subprocess.run(["git", "check-ref-format", reference], check=False, timeout=30)
    ours = check_branch_name(name) is None
    assert ours == (answer.returncode == 0 and not name.startswith("-"))


@pytest.mark.parametrize(
    "name", ["-x", "--upload-pack=x", "", "a" * 256, "a\x00b", "\ud800", "a b"]
)
def test_branch_names_that_are_refused(name: str) -> None:
    assert check_branch_name(name) is not None


@pytest.mark.parametrize("name", ["main", "feature/x", "a" * 255, "ünïcode", "release-1.0", "@"])
def test_branch_names_that_are_taken(name: str) -> None:
    assert check_branch_name(name) is None


def test_commits() -> None:
    assert check_commit("a" * 40) is None
    assert check_commit("0" * 64) is None
    for text in ("", "a" * 39, "a" * 41, "A" * 40, "g" * 40, "a" * 40 + "\n", "-" + "a" * 39):
        assert check_commit(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        *("refs/heads/main", "refs/heads/a/b", "refs/tags/v1.0", "refs/pull/1/head"),
        *("refs/merge-requests/123456/head", "refs/heads/refs/heads/x"),
    ],
)
def test_what_may_be_built(text: str) -> None:
    assert check_ref(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "main", "refs/heads/", "refs/tags/", "refs/heads/a..b", "refs/tags/-x"),
        *("refs/notes/commits", "refs/remotes/origin/main", "refs/pull/1/merge", "HEAD"),
        *("refs/pull/0/head", "refs/pull/01/head", "refs/pull/x/head", "refs/pull/1/head/x"),
        *("refs/pull/1/head\n", "refs/heads/a:b", "+refs/heads/main", "refs/heads/a b"),
        *("refs/merge-requests//head", "refs/pull/" + "9" * 30 + "/head", "--upload-pack=x"),
    ],
)
def test_what_is_never_asked_for(text: str) -> None:
    assert check_ref(text) is not None


def test_a_branch_is_a_full_name_too() -> None:
    assert ref_of("main", None) == "refs/heads/main"
    assert ref_of("v1", "refs/tags/v1") == "refs/tags/v1"
