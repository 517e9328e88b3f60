"""common.forges.web_pages: links to a forge are made of the operator's configuration alone."""

from typing import get_args

import pytest

from common.forges.registry import ForgeKind
from common.forges.web_pages import request_number, web_pages

OLD, NEW = "a" * 40, "b" * 64


@pytest.mark.parametrize(
    ("kind", "url", "commit", "comparison", "request_page"),
    [
        (
            "github",
            "https://github.com/o/r.git",
            f"https://github.com/o/r/commit/{NEW}",
            f"https://github.com/o/r/compare/{OLD}...{NEW}",
            "https://github.com/o/r/pull/7",
        ),
        (
            "gitea",
            "http://git.example.org:3000/o/r",
            f"http://git.example.org:3000/o/r/commit/{NEW}",
            f"http://git.example.org:3000/o/r/compare/{OLD}...{NEW}",
            "http://git.example.org:3000/o/r/pulls/7",
        ),
        (
            "gitlab",
            "https://gitlab.com/a/b/r.git/",
            f"https://gitlab.com/a/b/r/-/commit/{NEW}",
            f"https://gitlab.com/a/b/r/-/compare/{OLD}...{NEW}",
            "https://gitlab.com/a/b/r/-/merge_requests/7",
        ),
        (
            "bitbucket",
            "https://bitbucket.org/o/r.git",
            f"https://bitbucket.org/o/r/commits/{NEW}",
            f"https://bitbucket.org/o/r/branches/compare/{NEW}%0D{OLD}",
            "https://bitbucket.org/o/r/pull-requests/7",
        ),
        (
            "bitbucket_data_center",
            "https://b.example.org/ctx/scm/PRJ/r.git",
            f"https://b.example.org/ctx/projects/PRJ/repos/r/commits/{NEW}",
            f"https://b.example.org/ctx/projects/PRJ/repos/r/compare/commits"
            f"?targetBranch={OLD}&sourceBranch={NEW}",
            "https://b.example.org/ctx/projects/PRJ/repos/r/pull-requests/7",
        ),
    ],
)
def test_the_pages_of_each_forge(
    kind: ForgeKind, url: str, commit: str, comparison: str, request_page: str
) -> None:
    pages = web_pages(kind, [url])
    assert pages is not None
    assert pages.commit(NEW) == commit
    assert pages.comparison(OLD, NEW) == comparison
    assert pages.request(7) == request_page


@pytest.mark.parametrize("kind", get_args(ForgeKind))
def test_every_forge_has_pages(kind: ForgeKind) -> None:
    pages = web_pages(kind, ["https://h.example/o/r"])
    assert pages is not None
    for address in (pages.commit(OLD), pages.comparison(OLD, NEW), pages.request(1)):
        assert address.startswith("https://h.example/o/r/")


@pytest.mark.parametrize(
    ("urls", "address"),
    [
        (["git@github.com:o/r.git", "https://github.com/o/r"], "https://github.com/o/r"),
        (["https://user:secret@h.example/o/r.git"], "https://h.example/o/r"),
        (["https://h.example/o/r?x=1#y"], "https://h.example/o/r"),
        (['https://h.example/"><script>/r'], "https://h.example/%22%3E%3Cscript%3E/r"),
        (["javascript:alert(1)", "file:///srv/r.git", "ssh://git@h/o/r"], None),
        (["https:///r", "https://[::/r"], None),
        ([], None),
    ],
)
def test_only_a_web_address_is_linked(urls: list[str], address: str | None) -> None:
    pages = web_pages("github", urls)
    assert (None if pages is None else pages.repository) == address


def test_without_a_forge_there_are_no_pages() -> None:
    assert web_pages(None, ["https://github.com/o/r"]) is None


def test_a_users_own_repository_at_data_center() -> None:
    pages = web_pages("bitbucket_data_center", ["https://b.example/scm/~ada/r.git"])
    assert pages is not None
    assert pages.repository == "https://b.example/users/ada/repos/r"


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("refs/pull/12/head", 12),
        ("refs/merge-requests/3/head", 3),
        ("refs/pull-requests/4/from", 4),
        ("refs/heads/pull/1/head", None),
        ("refs/pull/0/head", None),
        ("refs/pull/1/merge", None),
        (None, None),
    ],
)
def test_a_requests_ref_names_its_number(ref: str | None, number: int | None) -> None:
    assert request_number(ref) == number
