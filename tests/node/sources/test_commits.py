"""node.sources.commits: the commits of a build as they are in the mirror, bounded."""

from pathlib import Path

import pytest

from common.git_commits import read_commits
from node.sources import commits
from node.sources.checkout import Checkout
from tests.node.conftest import WORKSPACE_BYTES, GitRepository


async def objects_of(
    repository: GitRepository, checkout: Checkout, target: Path, commit: str
) -> bytes:
    """What is kept of that commit, after its checkout."""
    await checkout.check_out(
        repository.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    return await checkout.list_commits(repository.url, commit)


async def test_the_commit_comes_with_those_before_it(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    made = [repository.commit({"a": str(number)}) for number in range(3)]
    found = read_commits(await objects_of(repository, checkout, target, made[-1]), made[-1])
    assert [facts.id for facts in found] == made[::-1]
    assert all(facts.subject and facts.author for facts in found)


async def test_of_long_ones_there_are_fewer_and_of_one_that_is_too_long_none(
    repository: GitRepository,
    checkout: Checkout,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [repository.commit({"a": str(number)}) for number in range(10)]
    data = await objects_of(repository, checkout, target, made[-1])
    monkeypatch.setattr(commits, "COMMITS_BYTES_MAX", len(data) // 2)
    fewer = await checkout.list_commits(repository.url, made[-1])
    assert [facts.id for facts in read_commits(fewer, made[-1])] == made[-1:]
    monkeypatch.setattr(commits, "COMMITS_BYTES_MAX", 10)
    assert await checkout.list_commits(repository.url, made[-1]) == b""
