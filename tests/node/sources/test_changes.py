"""What a request changes: the base stays where the commit left its target, whatever comes there."""

from pathlib import Path

import pytest

from node.sources import changes
from node.sources.checkout import Checkout
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import WORKSPACE_BYTES, GitRepository

BRANCH = "refs/heads/change"


async def changed(
    repository: GitRepository, checkout: Checkout, target: Path, commit: str
) -> changes.Changes:
    """What the commit of the branch `change` changes of `main`, after its checkout."""
    repository.git("update-ref", BRANCH, commit)
    await checkout.check_out(
        repository.url, BRANCH, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    return await checkout.find_changes(repository.url, "main", commit)


def merge(repository: GitRepository, branch: str) -> str:
    repository.git("merge", "--quiet", "--no-ff", "--message=merge", branch)
    return repository.git("rev-parse", "HEAD")


async def test_the_paths_that_differ(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """Renames are two paths, a mode is a change, and what only the target has is none."""
    before: dict[str, str | bytes] = {
        "kept": "1",
        "gone": "2",
        "old": "3" * 100,
        "mode": "4",
        "text": "5",
    }
    base = repository.commit(before)
    repository.commit(before | {"theirs": "x"})
    repository.git("checkout", "--quiet", "-b", "work", base)
    after: dict[str, str | bytes] = {"kept": "1", "new/name": "3" * 100, "mode": "4", "text": "6"}
    repository.commit(after)
    (repository.folder / "mode").chmod(0o755)
    (repository.folder / "\udcff\n").write_text("x")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=more")
    commit = repository.git("rev-parse", "HEAD")
    found = await changed(repository, checkout, target, commit)
    assert found.base == base
    assert found.paths is not None
    assert set(found.paths) == {"gone", "old", "new/name", "mode", "text", "\udcff\n"}


async def test_the_base_stays_when_the_target_takes_commits(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """Replicas that ask before and after agree: commits of the target's own, a merge of another
    request that this one is built on, and the merge of this one."""
    base = repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "-b", "first")
    first = repository.commit({"a": "1", "first": "1"})
    commit = repository.commit({"a": "1", "first": "1", "second": "1"})
    expected = changes.Changes(base, ("first", "second"))
    assert await changed(repository, checkout, target, commit) == expected
    repository.git("checkout", "--quiet", "main")
    repository.commit({"a": "2"})
    assert await changed(repository, checkout, target, commit) == expected
    for merged in (first, commit):
        merge(repository, merged)
        assert await changed(repository, checkout, target, commit) == expected
    for number in range(5):
        repository.commit({"a": str(number)})
    assert await changed(repository, checkout, target, commit) == expected


async def test_a_request_that_took_in_its_target_changes_its_own_alone(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    base = repository.commit({"a": "1"})
    newer = repository.commit({"a": "1", "theirs": "1"})
    repository.commit({"a": "1", "theirs": "2"})
    repository.git("checkout", "--quiet", "-b", "work", base)
    repository.commit({"a": "1", "mine": "1"})
    commit = merge(repository, newer)
    found = await changed(repository, checkout, target, commit)
    assert found == changes.Changes(newer, ("mine",))


async def test_a_commit_that_is_the_targets_already_changes_nothing_that_can_be_told(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """A gateway that names such a target has nothing skipped: replicas abstain."""
    commit = repository.commit({"a": "1"})
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="has the commit already") as error:
            await changed(repository, checkout, target, commit)
        assert error.value.is_permanent
        repository.commit({"a": "2"})
    repository.git("checkout", "--quiet", "-b", "other")
    repository.git("branch", "--quiet", "-D", "main")
    with pytest.raises(InfrastructureError, match="the server has no refs/heads/main") as error:
        await changed(repository, checkout, target, commit)
    assert error.value.is_permanent


async def test_a_target_that_was_set_back_is_believed(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """An older mirror must not know another base than a new one."""
    base = repository.commit({"a": "1"})
    newer = repository.commit({"a": "2"})
    repository.git("checkout", "--quiet", "-b", "work")
    commit = repository.commit({"a": "3"})
    assert (await changed(repository, checkout, target, commit)).base == newer
    repository.git("update-ref", "refs/heads/main", base)
    assert (await changed(repository, checkout, target, commit)).base == base


async def test_what_cannot_be_told_is_said(
    repository: GitRepository,
    checkout: Checkout,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a base, with a submodule, with too much: nothing says what is left out."""
    repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "--orphan", "other")
    commit = repository.commit({"a": "other"})
    found = await changed(repository, checkout, target, commit)
    assert (found.base, found.paths) == (None, None)
    repository.git("checkout", "--quiet", "-b", "work", "main")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    repository.git("commit", "--quiet", "--message=module")
    found = await changed(repository, checkout, target, repository.git("rev-parse", "HEAD"))
    assert (found.paths, found.problem[:11]) == (None, "a submodule")
    repository.git("checkout", "--quiet", "-f", "-b", "many", "main")
    commit = repository.commit({f"file{number}": "" for number in range(20)})
    found = await changed(repository, checkout, target, commit)
    assert found.paths is not None
    assert len(found.paths) == 21
    monkeypatch.setattr(changes, "LISTING_BYTES_MAX", 500)
    found = await changed(repository, checkout, target, commit)
    assert (found.paths, found.problem) == (None, "more files differ than are compared")


@pytest.mark.parametrize("behind", [0, 1, 2, 3, 6, 7, 8])
async def test_the_base_is_found_however_far_the_target_went(
    repository: GitRepository, checkout: Checkout, target: Path, behind: int
) -> None:
    line = [repository.commit({"a": str(number)}) for number in range(9)]
    base = line[-1 - behind]
    repository.git("checkout", "--quiet", "-b", "work", base)
    commit = repository.commit({"mine": "1"})
    assert (await changed(repository, checkout, target, commit)).base == base
