"""client.gateway.resolve: a commit, no such branch, or no answer, told apart with a real git."""

import asyncio
import concurrent.futures
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from client.gateway.resolve import (
    NOT_CONFIGURED,
    QUESTIONS_PER_REPOSITORY_MAX,
    REFERENCES_PER_QUESTION_MAX,
    FoundCommit,
    NoSuchBranch,
    Resolution,
    Resolver,
    Unreachable,
)
from common.configuration.config import RepositoryEntry

GIT = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **GIT},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet", "--initial-branch=master")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(folder, "branch", "feature/x")
    git(folder, "branch", "refs/heads/odd")
    git(folder, "tag", "v1")
    git(folder, "tag", "--annotate", "--message=x", "v2")
    git(folder, "update-ref", "refs/pull/7/head", "HEAD")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "two")
    return folder


def resolver_of(
    home: Path, url: str, fetch_url: str | None = None, seconds: float = 10
) -> Resolver:
    return Resolver((RepositoryEntry(url, fetch_url),), home / "home", seconds)


async def test_a_branch_has_a_commit(repository: Path, tmp_path: Path) -> None:
    url = f"file://{repository}"
    resolver = resolver_of(tmp_path, url)
    for branch in ("master", "feature/x"):
        commit = git(repository, "rev-parse", f"refs/heads/{branch}")
        assert await resolver.resolve(url, branch) == FoundCommit(commit)
    resolver.close()


@pytest.mark.parametrize("branch", ["no-such-branch", "v1", "x", "ster", "odd", "HEAD", "refs"])
async def test_what_is_no_branch_has_none(repository: Path, tmp_path: Path, branch: str) -> None:
    """Also tags, and the tails of other names, which ls-remote's patterns would match."""
    url = f"file://{repository}"
    resolver = resolver_of(tmp_path, url)
    assert await resolver.resolve(url, branch) == NoSuchBranch()
    resolver.close()


@pytest.mark.parametrize("ref", ["refs/tags/v1", "refs/tags/v2", "refs/pull/7/head"])
async def test_a_tag_or_a_request_has_a_commit(repository: Path, tmp_path: Path, ref: str) -> None:
    """A tag that is an object of its own leads to its commit."""
    url = f"file://{repository}"
    resolver = resolver_of(tmp_path, url)
    commit = git(repository, "rev-parse", f"{ref}^{{commit}}")
    assert await resolver.resolve(url, "anything", ref) == FoundCommit(commit)
    for absent in (ref + "0", "refs/notes/x"):
        assert await resolver.resolve(url, "master", absent) == NoSuchBranch()
    resolver.close()


async def test_the_operators_own_mirror_is_asked(repository: Path, tmp_path: Path) -> None:
    resolver = resolver_of(tmp_path, "https://example.org/r.git", f"file://{repository}")
    found = await resolver.resolve("https://example.org/r.git", "master")
    assert isinstance(found, FoundCommit)
    resolver.close()


async def test_a_repository_that_is_gone_gives_no_answer(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/gone.git"
    resolver = resolver_of(tmp_path, url)
    found = await resolver.resolve(url, "master")
    assert isinstance(found, Unreachable)
    assert "gone.git" in found.reason
    assert "\n" not in found.reason
    resolver.close()


async def test_a_repository_that_is_not_configured_is_not_asked(
    repository: Path, tmp_path: Path
) -> None:
    resolver = resolver_of(tmp_path, "https://example.org/r.git")
    found = await resolver.resolve(f"file://{repository}", "master")
    assert found == Unreachable("the repository is no longer in this gateway's configuration")
    resolver.close()


async def test_a_server_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/r.git"
    # the first is enough, but where the machine is so busy that git takes longer to begin
    for seconds in (1, 4, 16, 64):
        resolver = resolver_of(tmp_path, url, seconds=seconds)
        found = await resolver.resolve(url, "master")
        resolver.close()
        assert found == Unreachable(f"no answer in {seconds} s")
        thread.join(1)
        if accepted:
            break
    assert accepted, "git never connected"
    for connection in accepted:
        connection.close()
    listener.close()


async def test_a_silent_server_does_not_keep_the_others_waiting(
    repository: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/r.git"
        good = f"file://{repository}"
        entries = (RepositoryEntry(silent), RepositoryEntry(good))
        # whoever waited for the silent server would be ended by this test's own time limit
        resolver = Resolver(entries, tmp_path / "home", 600)
        waiting = [asyncio.create_task(resolver.resolve(silent, f"b{i}")) for i in range(20)]
        found = await resolver.resolve(good, "master")
        assert isinstance(found, FoundCommit)
        assert not any(task.done() for task in waiting)
        resolver.close()
        for answer in await asyncio.gather(*waiting):
            assert isinstance(answer, Unreachable)


async def test_a_crowd_is_answered_by_a_few_questions(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question asks for all who wait when it begins, each reference once."""
    asked: list[list[str]] = []
    ask = Resolver.ask

    def noted(self: Resolver, url: str, names: Sequence[str]) -> dict[str, Resolution]:
        asked.append(list(names))
        return ask(self, url, names)

    monkeypatch.setattr(Resolver, "ask", noted)
    url = f"file://{repository}"
    resolver = resolver_of(tmp_path, url)
    names = ["master", "feature/x", "nothing", "no..branch", "master"] * 50
    crowd = [resolver.resolve(url, name) for name in names]
    found = await asyncio.gather(*crowd, resolver.resolve(url, "v2", "refs/tags/v2"))
    head, older = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "HEAD^")
    expected = [FoundCommit(head), FoundCommit(older), NoSuchBranch(), NoSuchBranch()]
    assert found == [*(expected + expected[:1]) * 50, FoundCommit(older)]
    assert asked == [
        ["refs/heads/master", "refs/heads/feature/x", "refs/heads/nothing", "refs/tags/v2"]
    ]
    resolver.close()


async def test_nobody_gets_an_answer_from_before_it_asked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while a question is under way waits for the next one."""
    moved = tmp_path / "moved"
    git(tmp_path, "clone", "--quiet", str(repository), str(moved))
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
    ask = Resolver.ask

    def slowly(self: Resolver, url: str, names: Sequence[str]) -> dict[str, Resolution]:
        found = ask(self, url, names)
        begun.release()
        assert go_on.acquire(timeout=60)
        return found

    monkeypatch.setattr(Resolver, "ask", slowly)
    url = f"file://{moved}"
    resolver = resolver_of(tmp_path, url)
    before = git(moved, "rev-parse", "HEAD")
    early = []
    for _ in range(QUESTIONS_PER_REPOSITORY_MAX):
        early.append(asyncio.create_task(resolver.resolve(url, "master")))
        assert await asyncio.to_thread(begun.acquire, timeout=60)
    late = [asyncio.create_task(resolver.resolve(url, "master")) for _ in range(5)]
    git(moved, "commit", "--quiet", "--allow-empty", "-m", "newer")
    for _ in range(QUESTIONS_PER_REPOSITORY_MAX + 1):
        go_on.release()
    assert set(await asyncio.gather(*early)) == {FoundCommit(before)}
    assert set(await asyncio.gather(*late)) == {FoundCommit(git(moved, "rev-parse", "HEAD"))}
    resolver.close()


def test_remote_helpers_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="remote helpers"):
        resolver_of(tmp_path, "https://example.org/r.git", "ext::/bin/sh")


_Answer = concurrent.futures.Future[dict[str, Resolution]]


class _Held(concurrent.futures.Executor):
    """Threads that begin nothing: a test answers what they were asked."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[_Answer] = asyncio.Queue()

    def submit(self, *_: object, **__: object) -> Any:
        answer: _Answer = concurrent.futures.Future()
        self._asked.put_nowait(answer)
        return answer

    async def next(self) -> _Answer:
        """The answer to the next question, which was or will be asked."""
        return await asyncio.wait_for(self._asked.get(), 60)


async def test_who_asks_as_the_last_question_ends_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very turn of the loop in which all askers have found nobody waiting."""
    url = "https://example.org/r.git"
    resolver = resolver_of(tmp_path, url)
    held = _Held()
    monkeypatch.setattr(resolver, "_threads", held)
    found: dict[str, Resolution] = {"refs/heads/master": FoundCommit("1" * 40)}
    early, answers = [], []
    for _ in range(QUESTIONS_PER_REPOSITORY_MAX):
        early.append(asyncio.create_task(resolver.resolve(url, "master")))
        answers.append(await held.next())
    for answer in answers:
        answer.set_result(found)
    # now the askers are to go on in the next turn, and the late one right behind them
    await asyncio.sleep(0)
    late = asyncio.create_task(resolver.resolve(url, "master"))
    await asyncio.gather(*early)
    (await held.next()).set_result(found)
    assert await late == found["refs/heads/master"]
    resolver.close()


class _NoThreads(concurrent.futures.Executor):
    """What the standard library's does where the machine gives no more threads."""

    def submit(self, *_: object, **__: object) -> Any:
        raise RuntimeError("can't start new thread")


async def test_a_question_that_cannot_be_asked_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor those who are beyond it: there are more of them than all questions at once hold."""
    url = "https://example.org/r.git"
    resolver = resolver_of(tmp_path, url)
    monkeypatch.setattr(resolver, "_threads", _NoThreads())
    count = REFERENCES_PER_QUESTION_MAX * QUESTIONS_PER_REPOSITORY_MAX + 1
    crowd = (resolver.resolve(url, f"b{number}") for number in range(count))
    found = await asyncio.wait_for(asyncio.gather(*crowd), 60)
    assert set(found) == {Unreachable("it could not be asked: can't start new thread")}
    resolver.close()


async def test_other_repositories_are_asked_from_then_on(repository: Path, tmp_path: Path) -> None:
    first, second = f"file://{repository}", f"file://{repository}/.git"
    resolver = resolver_of(tmp_path, first)
    assert isinstance(await resolver.resolve(second, "master"), Unreachable)
    asked = asyncio.create_task(resolver.resolve(first, "master"))
    await asyncio.sleep(0)
    resolver.use(resolver.remotes_of((RepositoryEntry(second),)))
    assert isinstance(await resolver.resolve(second, "master"), FoundCommit)
    assert await asked == Unreachable(NOT_CONFIGURED), "it waited, and git was not asked yet"
    assert await resolver.resolve(first, "master") == Unreachable(NOT_CONFIGURED)
    with pytest.raises(ValueError, match="run programs and are not allowed"):
        resolver.remotes_of((RepositoryEntry("ext::sh -c x".replace(" ", "")),))
    resolver.close()
