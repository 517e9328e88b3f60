"""Fetches that are ended: too large, too greedy, too little disk, stopped. Nothing of them stays.

All that is fetched comes as a pack, because git is told to check it (transfer.fsckObjects).
"""

import os
import threading
from pathlib import Path

import pytest

from common.repositories.repository_config import RepositoryEntry
from node.sources import checkout as checkout_module
from node.sources import fetch_bounds
from node.sources.checkout import Checkout
from node.sources.fetch_bounds import size_bytes
from node.sources.git_process import run_git
from node.sources.mirror import Mirror, Source
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, Stopped
from tests.node.conftest import WORKSPACE_BYTES, CheckoutMaker, ConfigMaker, GitRepository
from tests.processes.gate import Gate, GitServer
from tests.waiting import block_until

MAIN = "refs/heads/main"
MIB = 2**20


def commit_noise(repository: GitRepository, files: int, bytes_each: int) -> str:
    """A commit with files that nobody compresses; its id."""
    for number in range(files):
        (repository.folder / f"noise{number}").write_bytes(os.urandom(bytes_each))
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=noise")
    return repository.git("rev-parse", "HEAD")


def mirrors(tmp_path: Path) -> Path:
    return tmp_path / "data" / "mirrors"


def tars(folder: Path) -> list[Path]:
    return list(folder.glob("*.tar"))


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in mirrors(tmp_path).rglob("*") if "tmp_" in path.name]


@pytest.mark.parametrize(("files", "bytes_each"), [(150, 40_000), (2, 3 * MIB)])
async def test_a_repository_above_the_limit(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: int,
    bytes_each: int,
) -> None:
    monkeypatch.setattr(checkout_module, "FETCH_BYTES_MIN", MIB)
    first = repository.commit({"a": "1"})
    checkout = make_checkout(make_config(repository.url, mirrors_bytes_max=MIB))
    assert isinstance(
        await checkout.check_out(
            repository.url, MAIN, first, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    large = commit_noise(repository, files, bytes_each)
    with pytest.raises(InfrastructureError, match="mirrors_bytes_max") as error:
        await checkout.check_out(
            repository.url, MAIN, large, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    # it would be sent again and again
    assert error.value.is_permanent
    assert leftovers(tmp_path) == []
    assert size_bytes(mirrors(tmp_path)) < MIB
    # nobody else's builds are the worse for it
    repository.git("update-ref", MAIN, first)
    assert isinstance(
        await checkout.check_out(
            repository.url, MAIN, first, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )


async def test_objects_that_need_too_much_memory(
    repository: GitRepository,
    checkout: Checkout,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_bounds, "MEMORY_BYTES_MAX", 24 * MIB)
    commit = repository.commit({"bomb": bytes(64 * MIB)})
    with pytest.raises(InfrastructureError, match=r"[Oo]ut of memory"):
        await checkout.check_out(
            repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    assert leftovers(tmp_path) == []


async def test_a_disk_that_is_nearly_full(
    repository: GitRepository,
    checkout: Checkout,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a fetch nor an export takes the rest: the replica's own store is on it."""
    first = repository.commit({"a": "1"})
    assert isinstance(
        await checkout.check_out(
            repository.url, MAIN, first, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    exported = tmp_path / "another.tar"
    monkeypatch.setattr(fetch_bounds, "FREE_BYTES_MIN", 2**60)
    second = repository.commit({"a": "2"})
    for commit in (first, second):
        with pytest.raises(InfrastructureError, match="make room") as error:
            await checkout.check_out(
                repository.url, MAIN, commit, target=exported, workspace_bytes=WORKSPACE_BYTES
            )
        # somebody may
        assert not error.value.is_permanent
    assert tars(tmp_path) == [target]
    assert leftovers(tmp_path) == []


def test_all_files_together_are_bounded(repository: GitRepository, tmp_path: Path) -> None:
    """Not only the one that grows; and git has ended with its children when that is told."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "before").write_bytes(bytes(5000))
    bounds = fetch_bounds.fetch_bounds(folder, 1000)
    bounds.check()
    for name in ("a", "b"):
        (folder / name).write_bytes(bytes(501))
    with pytest.raises(InfrastructureError, match="1000 bytes"):
        bounds.check()
    alias = "alias.wait=!sleep 600"
    with pytest.raises(InfrastructureError, match="1000 bytes"):
        run_git(["-c", alias, "wait"], environment={}, stop=Stop(), bounds=bounds)


def test_a_fetch_that_is_stopped(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    tmp_path: Path,
) -> None:
    commit = commit_noise(repository, 130, 200_000)
    folder = mirrors(tmp_path) / "a.git"
    stop = Stop()
    ended: list[BaseException] = []

    def prove() -> None:
        try:
            mirror.prove(stop)
        except Stopped as error:
            ended.append(error)

    # of the pack only the beginning comes, so that it is not over before it is stopped
    with GitServer(repository.folder) as server, Gate(server.connect, bytes_max=4 * MIB) as gate:
        gate.open()
        url = server.url(gate.port)
        checkout = make_checkout(make_config(url))
        remote = checkout._remote(RepositoryEntry(url))
        mirror = Mirror(folder, remote, MAIN, commit=commit, fetch_bytes_max=2**40)
        thread = threading.Thread(target=prove)
        thread.start()
        block_until(lambda: any(folder.glob("objects/pack/tmp_pack_*")), "a pack begins")
        stop.set()
        thread.join()
    assert len(ended) == 1
    assert list(folder.glob("objects/pack/*")) == []
    assert size_bytes(folder) < MIB


async def test_what_a_node_that_was_killed_left(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    config = make_config(repository.url)
    commit = repository.commit({"a": "1"})
    found = await make_checkout(config).check_out(
        repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    (mirror,) = mirrors(tmp_path).iterdir()
    (mirror / "objects" / "pack" / "tmp_pack_x").write_bytes(b"x")
    (mirror / "objects" / "ab").mkdir(exist_ok=True)
    (mirror / "objects" / "ab" / "tmp_obj_x").write_bytes(b"x")
    mirror.with_suffix(".new").mkdir()
    make_checkout(config)
    assert leftovers(tmp_path) == []
    assert list(mirrors(tmp_path).iterdir()) == [mirror]
