"""client.gateway.results_file: every line exactly once, wherever a crash strikes."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from client.gateway.results_file import ResultsFile, ResultsWriter
from client.gateway.writes import ForgetWrittenResults, Write
from client.storage.database import Database, StorageFailed
from tests.waiting import wait_until

CLUSTER = bytes(32)


class Gateway:
    """What a gateway does with the file, with lives that end at any step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "log" / "results.jsonl"
        self.start()

    def start(self) -> None:
        self.database = Database(self.folder / "data", CLUSTER, "client")
        self.results = ResultsFile(self.database, self.file)
        self.results.open()

    def crash(self) -> None:
        self.database.close()

    def restart(self) -> None:
        self.crash()
        self.start()

    def add(self, *names: str) -> None:
        with self.database.transaction():
            for name in names:
                self.results.add(name.encode(), name.encode())

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines()


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_lines_come_in_the_order_of_the_verdicts(gateway: Gateway) -> None:
    gateway.add("a")
    gateway.results.write()
    gateway.add("b", "c")
    gateway.results.write()
    gateway.results.write()
    assert gateway.lines() == ["a", "b", "c"]


def test_a_crash_before_the_file_was_written(gateway: Gateway) -> None:
    gateway.add("a", "b")
    gateway.restart()
    assert gateway.lines() == ["a", "b"]
    gateway.restart()
    assert gateway.lines() == ["a", "b"]


def test_a_crash_after_the_file_was_written(gateway: Gateway) -> None:
    gateway.add("a")
    gateway.results.write()
    gateway.restart()
    gateway.add("b")
    gateway.results.write()
    gateway.restart()
    assert gateway.lines() == ["a", "b"]


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 5])
def test_a_crash_in_the_middle_of_writing(gateway: Gateway, kept: int) -> None:
    """The lines `aa`, `bb` were being written, and so many bytes of them came through."""
    gateway.add("first")
    gateway.results.write()
    gateway.add("aa", "bb")
    gateway.crash()
    with gateway.file.open("ab") as stream:
        stream.write(b"aa\nbb\n"[:kept])
    gateway.start()
    assert gateway.lines() == ["first", "aa", "bb"]


def test_a_file_that_was_moved_away_starts_empty(gateway: Gateway) -> None:
    gateway.add("a")
    gateway.results.write()
    gateway.add("b")
    gateway.results.write()
    gateway.results.close()
    gateway.crash()
    gateway.file.rename(gateway.file.with_suffix(".old"))
    gateway.start()
    gateway.add("c")
    gateway.results.write()
    assert gateway.lines() == ["c"]


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_a_file_that_was_moved_away_after_a_crash(gateway: Gateway, is_forgotten: bool) -> None:
    """Nothing old is written again, but for what was written in the moment before the crash."""
    gateway.add("a")
    gateway.results.write()
    if is_forgotten:
        with gateway.database.transaction():
            gateway.results.forget_written()
    gateway.crash()
    gateway.file.rename(gateway.file.with_suffix(".old"))
    gateway.start()
    gateway.add("b")
    gateway.results.write()
    assert gateway.lines() == (["b"] if is_forgotten else ["a", "b"])


async def test_what_is_written_is_forgotten_soon_and_in_one_commit(gateway: Gateway) -> None:
    commits: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    def kept() -> int:
        return len(gateway.database.rows("SELECT * FROM results"))

    async def put(write: Write) -> None:
        assert write == ForgetWrittenResults()
        with gateway.database.transaction():
            gateway.results.forget_written()
        commits.append(kept())

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.ensure_future(work))

    writer = ResultsWriter(gateway.results, put, spawn)
    for name in ("a", "b", "c"):
        gateway.add(name)
        writer.write()
    assert kept() == 1
    await wait_until(lambda: commits == [0], "the commit that forgets them")
    gateway.add("d")
    writer.write()
    await wait_until(lambda: commits == [0, 0], "the next one")
    await asyncio.gather(*tasks)
    assert gateway.lines() == ["a", "b", "c", "d"]


async def test_a_disk_that_takes_no_commit_costs_no_line(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def put(write: Write) -> None:
        raise StorageFailed("disk full")

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.ensure_future(work))

    writer = ResultsWriter(gateway.results, put, spawn)
    gateway.add("a")
    writer.write()
    await wait_until(lambda: "disk full" in caplog.text, "the complaint")
    gateway.add("b")
    writer.write()
    await asyncio.gather(*tasks)
    assert gateway.lines() == ["a", "b"]


def test_a_write_that_fails_is_done_later(gateway: Gateway, tmp_path: Path) -> None:
    gateway.add("a")
    gateway.results.write()
    moved = gateway.file.parent.rename(tmp_path / "elsewhere")
    gateway.add("b")
    with pytest.raises(OSError, match="results"):
        gateway.results.write()
    moved.rename(gateway.file.parent)
    gateway.add("c")
    gateway.results.write()
    assert gateway.lines() == ["a", "b", "c"]


def test_one_build_has_one_line(gateway: Gateway) -> None:
    with gateway.database.transaction():
        gateway.results.add(b"build", b"once")
        gateway.results.add(b"build", b"twice")
    gateway.results.write()
    assert gateway.lines() == ["once"]


def test_the_database_does_not_keep_what_is_written(gateway: Gateway) -> None:
    for index in range(20):
        gateway.add(f"line {index}")
        gateway.results.write()
    assert len(gateway.database.rows("SELECT * FROM results")) <= 1
    gateway.results.close()
    assert gateway.database.rows("SELECT * FROM results") == []
