"""Floods: processes, memory, disks, files, output. Each is stopped by its own limit."""

import pytest

from tests.hostile.conftest import Arena
from tests.node.conftest import FORK_BOMB

pytestmark = pytest.mark.docker


async def test_a_fork_bomb(arena: Arena) -> None:
    result = await arena.run(*FORK_BOMB)
    assert result.words == ("failed", 4)
    assert "can't fork" in result.log


async def test_a_flood_of_memory(arena: Arena) -> None:
    result = await arena.run(
        "tail /dev/zero & tail /dev/zero & tail /dev/zero & wait; tail /dev/zero"
    )
    assert result.words == ("out_of_memory", None)


async def test_a_flood_of_memory_through_file_systems(arena: Arena) -> None:
    """Everything that can be written to, at once: full, and no more than was given."""
    result = await arena.run(
        "for f in a $HOME/a /tmp/a /dev/shm/a; do cat /dev/zero >$f || true; done",
        'test "$(cat a | wc -c)" -le 33554432',
        'test "$(cat $HOME/a | wc -c)" -le 8388608',
        'test "$(cat /tmp/a | wc -c)" -le 8388608',
        "for f in /a /etc/a /home/a /var/a /pbft-ci/a; do ! touch $f || exit 9; done",
        "exit 3",
    )
    assert result.words == ("failed", 3)
    assert result.log.count("No space left on device") >= 3


async def test_a_flood_of_files(arena: Arena) -> None:
    """Empty ones cost no space of the file system, only its number of files."""
    text = arena.pipeline(
        "mkdir d; cd d; i=0; while [ $i -lt 4000 ]; do mkdir $i || break;"
        " (cd $i && seq 100 | xargs touch) || break; i=$((i+1)); done; exit 5"
    )
    commit = arena.repository.commit({".pbft-ci.yml": text})
    # what the kernel needs for each file counts for the memory
    result = await arena.run_commit(commit, memory_bytes=256 * 2**20)
    assert result.words == ("failed", 5)
    assert "No space left on device" in result.log


async def test_a_flood_of_output(arena: Arena) -> None:
    """Without end and without line ends, with what turns terminals over."""
    result = await arena.run(
        "printf '\\033[2J\\033]0;owned\\007'",
        "yes \"$(printf '\\033[31m\\000\\377')\" | tr -d '\\n'",
        timeout_seconds=4,
    )
    assert result.words == ("timed_out", None)
    assert "bytes were cut here" in result.log


async def test_a_hundred_thousand_files_and_one(arena: Arena) -> None:
    result = await arena.run_commit(many_files(arena, 100_001))
    assert result.words == ("pipeline_invalid", None)
    assert "at most 100000" in result.log


@pytest.mark.long
async def test_a_hundred_thousand_files(arena: Arena) -> None:
    result = await arena.run_commit(many_files(arena, 99_000), workspace_bytes=2**29)
    assert result.words == ("passed", 0)
    assert "\n99000\n" in result.log


def many_files(arena: Arena, count: int) -> str:
    """A commit with that many files in folders of 1,000, made without a work tree."""
    text = arena.pipeline("find many -type f | wc -l").encode()
    stream = [b"blob\nmark :1\ndata 1\nx\nblob\nmark :2\ndata %d\n%s\n" % (len(text), text)]
    stream.append(
        b"commit refs/heads/main\ncommitter a <a@example.org> 1700000000 +0000\ndata 1\nx\n"
        b"M 100644 :2 .pbft-ci.yml\n"
    )
    stream += [b"M 100644 :1 many/%d/%d\n" % (number // 1000, number) for number in range(count)]
    arena.repository.git("fast-import", "--quiet", data=b"".join(stream))
    return arena.repository.git("rev-parse", "main")
