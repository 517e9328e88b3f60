"""Dockerfiles, whose building cannot be held as tightly as a container that only runs."""

import pytest

from tests.hostile.conftest import Arena

pytestmark = pytest.mark.docker


@pytest.mark.parametrize(
    "lines",
    [
        ("RUN cat /dev/zero >/big",),
        ("RUN head -c 30000000 /dev/zero >/big; sleep 2",) * 3,
        # measured by what it was built upon: the labels say nothing any more
        ("LABEL pbft-ci.build=x", "RUN head -c 200000000 /dev/zero >/big; sleep 2"),
        # COPY has no container that could be measured while it runs
        ("COPY big /a", "COPY big /b", "COPY big /c", "RUN sleep 2"),
    ],
)
async def test_a_flood_of_the_engines_disk(arena: Arena, lines: tuple[str, ...]) -> None:
    """The limits of the arena are 48 MiB for everything that a build may write."""
    text = "\n".join((f"FROM {arena.image}", *lines, 'CMD ["true"]'))
    result = await arena.run_files({"Dockerfile": text, "big": b"x" * 30_000_000})
    assert result.words == ("failed", 1), result.log
    assert "wrote more than 50331648 bytes into its image" in result.log


async def test_a_flood_of_a_volume(arena: Arena) -> None:
    """While an instruction runs it is a folder on the engine's disk that nobody measures."""
    flood = "RUN head -c 200000000 /dev/zero >/data/big; sleep 2"
    lines = (f"FROM {arena.image}", "VOLUME /data", flood, "CMD true")
    result = await arena.run_files({"Dockerfile": "\n".join(lines)})
    assert result.words == ("pipeline_invalid", None), result.log
    assert "RUN is not taken where VOLUME has declared a volume before" in result.log


async def test_a_dockerfile_that_stays_within_the_limits(arena: Arena) -> None:
    text = f"FROM {arena.image}\nRUN head -c 30000000 /dev/zero >/big\nCMD test -e /big\n"
    result = await arena.run_files({"Dockerfile": text})
    assert result.words == ("passed", 0), result.log


async def test_ways_out_of_a_dockerfile(arena: Arena) -> None:
    """Root in there, without a network, without the engine; what runs afterwards is nobody."""
    text = (
        f"FROM {arena.image}\nCOPY . /source\n"
        "RUN test ! -e /var/run/docker.sock && ! mount -t tmpfs none /mnt\n"
        'RUN test "$(ls /sys/class/net)" = lo && ! mknod /disk b 8 0 || ! cat /disk\n'
        f"RUN ! cat {arena.secret} && ! cat /source/link\n"
        "RUN chmod 6755 /bin/busybox\n"
        'CMD ["sh", "-c", "test $(id -u) = 65534 && ! touch /x && ! su -c id; exit 7"]\n'
    )
    up = "../" * 30
    links = {"link": up + str(arena.secret).lstrip("/")}
    result = await arena.run_files({"Dockerfile": text, "a": "1"}, links)
    assert result.words == ("failed", 7), result.log


@pytest.mark.long
async def test_a_fork_bomb_in_a_dockerfile(arena: Arena) -> None:
    """Its processes are counted; they may also come to the limit of the memory first."""
    text = f"FROM {arena.image}\nRUN b() {{ b | b & }}; b; sleep 600\nCMD true\n"
    result = await arena.run_files({"Dockerfile": text})
    is_counted = "an instruction has more than 64 processes" in result.log
    assert is_counted or result.words[0] == "out_of_memory", result.log
