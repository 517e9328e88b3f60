"""Mirrors that live long: what they prove alone, damage, locks, names, several builds at once."""

import asyncio
import random
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from common.configuration.config import RepositoryEntry
from node.sources.checkout import Checkout
from node.sources.git_process import GitAnswer
from node.sources.mirror import Mirror, Source
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop
from tests.node.conftest import WORKSPACE_BYTES, CheckoutMaker, ConfigMaker, GitRepository

NOWHERE = "f" * 40


def mirrors(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "mirrors").iterdir())


def only_mirror(tmp_path: Path) -> Path:
    (mirror,) = mirrors(tmp_path)
    return mirror


def loosen(mirror: Path) -> Path:
    """Put each object of a mirror into a file of its own; the folder of them."""
    for index in mirror.glob("objects/pack/*.idx"):
        index.unlink()
    for pack in mirror.glob("objects/pack/*.pack"):
        data = pack.read_bytes()
        pack.unlink()
        subprocess.run(
            ["git", "--git-dir", str(mirror), "unpack-objects", "-q"], input=data, check=True
        )
    return mirror / "objects"


async def test_what_the_mirror_has_is_not_sent_again(
    repository: GitRepository,
    checkout: Checkout,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetches = []
    fetch = Mirror._fetch

    def counted(mirror: Mirror, *references: str, stop: Stop) -> GitAnswer:
        fetches.append(references)
        return fetch(mirror, *references, stop=stop)

    monkeypatch.setattr(Mirror, "_fetch", counted)
    first = repository.commit({"a": "1"})
    second = repository.commit({"a": "2"})
    for commit in (second, first, second):
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
    assert len(fetches) == 1
    # what nobody answers is no answer
    repository.folder.rename(repository.folder.with_name("gone"))
    with pytest.raises(InfrastructureError):
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            second,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )


@pytest.mark.parametrize("change", ["set back", "gone", "tag"])
async def test_an_older_mirror_answers_as_a_new_one(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    change: str,
) -> None:
    """Else honest replicas would differ about a commit that is built again after a force-push."""
    reference = "refs/tags/v1" if change == "tag" else "refs/heads/main"
    kept = repository.commit({"a": "1"})
    dropped = repository.commit({"a": "2"})
    repository.git("tag", "--annotate", "--message=x", "v1", dropped)
    old, new = (
        make_checkout(make_config(repository.url, data_directory=tmp_path / name))
        for name in ("old", "new")
    )
    # of a branch also what is below its head
    for commit in (dropped,) if change == "tag" else (dropped, kept):
        found = await old.check_out(
            repository.url, reference, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
        assert isinstance(found, Source)
    repository.git("checkout", "--quiet", "--detach", kept)
    if change == "gone":
        repository.git("update-ref", "-d", reference)
    elif change == "tag":
        repository.git("tag", "--force", "v1", kept)
    else:
        repository.git("update-ref", reference, kept)
    answers = []
    for checkout in (old, new, old):
        with pytest.raises(InfrastructureError, match="or was moved since") as error:
            await checkout.check_out(
                repository.url, reference, dropped, target=target, workspace_bytes=WORKSPACE_BYTES
            )
        answers.append(error.value.reason)
    assert answers == [answers[0]] * 3
    if change != "gone":
        for checkout in (old, new):
            found = await checkout.check_out(
                repository.url, reference, kept, target=target, workspace_bytes=WORKSPACE_BYTES
            )
            assert isinstance(found, Source)


@pytest.mark.parametrize("damage", ["objects", "one object", "reference", "half made"])
async def test_a_corrupt_mirror_is_made_anew(
    repository: GitRepository, checkout: Checkout, target: Path, tmp_path: Path, damage: str
) -> None:
    first = repository.commit({"a": "1", "b": "x" * 3000})
    assert isinstance(
        await checkout.check_out(
            repository.url, "refs/heads/main", first, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    mirror = only_mirror(tmp_path)
    if damage == "objects":
        shutil.rmtree(mirror / "objects")
    elif damage == "one object":
        blob = repository.git("rev-parse", f"{first}:b")
        path = loosen(mirror) / blob[:2] / blob[2:]
        path.chmod(0o600)
        path.write_bytes(b"nonsense")
    elif damage == "reference":
        (reference,) = (mirror / "refs" / "pbft-ci").iterdir()
        reference.write_text("nonsense\n")
    else:
        shutil.rmtree(mirror / "objects")
        (mirror / "HEAD").unlink()
    for commit in (first, repository.commit({"a": "2"})):
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
    assert mirrors(tmp_path) == [mirror]


async def test_whichever_bit_of_a_mirror_is_flipped_the_tree_is_the_same(
    repository: GitRepository, checkout: Checkout, target: Path, tmp_path: Path
) -> None:
    """What git cannot read, or reads otherwise, is fetched anew."""
    # more than a hundred objects come as a pack
    files = {f"b/{number}": str(number) for number in range(100)}
    lines = [f"line {number} of many\n" for number in range(300)]
    repository.commit({**files, "a": "".join(lines)})
    commit = repository.commit({**files, "a": "".join(lines[::-1])})

    async def tree() -> bytes:
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        assert found.tree == target
        return await asyncio.to_thread(target.read_bytes)

    right = await tree()
    mirror = only_mirror(tmp_path)
    chance = random.Random(20261121)
    made_anew = 0
    for _ in range(20):
        packed = list(mirror.glob("objects/pack/*.[ip]*"))
        file = chance.choice(sorted(packed))
        data = bytearray(file.read_bytes())
        place, bit = chance.randrange(len(data)), chance.randrange(8)
        data[place] ^= 1 << bit
        file.chmod(0o600)
        file.write_bytes(bytes(data))
        mark = mirror / "of-this-mirror"
        mark.touch()
        assert await tree() == right, f"bit {bit} of byte {place} of {file.name}"
        made_anew += not mark.exists()
        # one flip at a time
        shutil.rmtree(mirror)
        assert await tree() == right
    assert made_anew > 0


async def test_repositories_of_equal_names_share_nothing(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    """A commit that one of them has is not there for the other."""
    other = GitRepository(tmp_path / "other")
    ours, theirs = repository.commit({"a": "ours"}), other.commit({"a": "theirs"})
    config = make_config(repository.url)
    both = (*config.repositories, RepositoryEntry(url=other.url))
    checkout = make_checkout(msgspec.structs.replace(config, repositories=both))
    for there, commit, text in ((repository, ours, b"ours"), (other, theirs, b"theirs")):
        found = await checkout.check_out(
            there.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
        assert isinstance(found, Source)
        assert text in await asyncio.to_thread(target.read_bytes)
    assert len(mirrors(tmp_path)) == 2
    for there, commit in ((repository, theirs), (other, ours)):
        with pytest.raises(InfrastructureError, match="the commit is not on refs/heads/main"):
            await checkout.check_out(
                there.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
            )


async def test_a_lost_commit_is_never_taken_for_an_answer(
    repository: GitRepository, checkout: Checkout, target: Path, tmp_path: Path
) -> None:
    """A damaged mirror must not say "not on the branch" in the server's name."""
    commits = [repository.commit({"a": str(number)}) for number in range(3)]
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commits[2],
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )
    lost = commits[1]
    (loosen(only_mirror(tmp_path)) / lost[:2] / lost[2:]).unlink()
    for commit in (commits[1], commits[0]):
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)


async def test_locks_of_a_git_that_was_killed(
    repository: GitRepository, checkout: Checkout, target: Path, tmp_path: Path
) -> None:
    first = repository.commit({"a": "1"})
    assert isinstance(
        await checkout.check_out(
            repository.url, "refs/heads/main", first, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    mirror = only_mirror(tmp_path)
    (reference,) = (mirror / "refs" / "pbft-ci").iterdir()
    for lock in (reference.with_name(reference.name + ".lock"), mirror / "packed-refs.lock"):
        lock.touch()
    second = repository.commit({"a": "2"})
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            second,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )


async def test_branches_whose_names_contain_each_other(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "-b", "x")
    commit = repository.commit({"a": "2"})
    assert isinstance(
        await checkout.check_out(
            repository.url, "refs/heads/x", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    repository.git("branch", "--move", "x", "y")
    repository.git("branch", "--move", "y", "x/y")
    commit = repository.commit({"a": "3"})
    assert isinstance(
        await checkout.check_out(
            repository.url, "refs/heads/x/y", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )


async def test_many_at_once_from_one_repository(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    commits = [repository.commit({"a": str(number)}) for number in range(6)]
    found = await asyncio.gather(
        *(
            checkout.check_out(
                repository.url,
                "refs/heads/main",
                commit,
                target=tmp_path / f"{commit}.tar",
                workspace_bytes=WORKSPACE_BYTES,
            )
            for commit in commits
        )
    )
    assert all(isinstance(source, Source) for source in found)
