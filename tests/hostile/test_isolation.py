"""Attempts to get out of the container, or to stay in it."""

import asyncio
import secrets
from collections.abc import Callable

import pytest

from tests.hostile.conftest import LIMITS, Arena, Order, addresses, is_root, processes_of
from tests.waiting import block_until

pytestmark = pytest.mark.docker


async def test_looking_for_a_way_out(arena: Arena) -> None:
    """The engine's socket, set-user-ID programs, device nodes, mounts, other namespaces."""
    result = await arena.run(
        # the Docker socket, or any other
        'test -z "$(find / -xdev -type s 2>/dev/null)$DOCKER_HOST"',
        "! ls /var/run/docker.sock /run/docker.sock 2>/dev/null",
        # set-user-ID
        "mkdir own; cp /bin/busybox own/ && chmod 6755 own/busybox && ls -l own",
        "test $(own/busybox id -u) = 65534",
        "! own/busybox chown 0:0 own/busybox",
        "! su -c id",
        # devices
        "! mknod disk b 8 0",
        "! mknod memory c 1 1",
        'test -z "$(find /dev -type b)"',
        "! cat /dev/mem /dev/kmsg /dev/port 2>/dev/null",
        # the kernel
        "! mount -t tmpfs none /tmp",
        "! mount -o remount,rw /",
        "! umount /workspace",
        "! unshare -r true",
        "! chroot / true",
        "! dmesg",
        "! echo 1 >/proc/sys/kernel/panic",
        "! echo c >/proc/sysrq-trigger",
        "! hostname owned",
        "test $(ulimit -c) = 0",
        # other processes: only our own are there
        "for p in /proc/[0-9]*; do test $(stat -c %u $p) = 65534 || exit 8; done",
        f"! cat {arena.secret}",
        "exit 6",
    )
    assert result.words == ("failed", 6), result.log


async def test_calls_over_the_network(arena: Arena, tripwire: Callable[[], int]) -> None:
    port = tripwire.port  # type: ignore[attr-defined]  # see the fixture
    targets = (*addresses(), "169.254.169.254", "1.1.1.1")
    calls = "; ".join(f"! nc -w 1 {target} {port} </dev/null || exit 9" for target in targets)
    result = await arena.run(
        calls,
        "! nslookup example.org",
        "! wget -T 2 -O - http://169.254.169.254/latest/meta-data/",
        "! ping -c 1 -W 1 127.0.0.1 || true",
        'test "$(ls /sys/class/net)" = lo',
        "exit 3",
    )
    assert result.words == ("failed", 3), result.log
    assert tripwire() == 0


async def test_signals(arena: Arena) -> None:
    ends_by_itself, never_ends = LIMITS["build_seconds_max"], 10
    expected = {
        # the first process of a container takes no signal that it does not ask for
        "kill -9 1; sleep 0.2; exit 5": (ends_by_itself, ("failed", 5)),
        "kill -TERM 1; while :; do sleep 0.1; done": (ends_by_itself, ("failed", 143)),
        "kill -9 0; sleep 60; exit 5": (ends_by_itself, ("failed", 137)),
        "kill -STOP $$": (never_ends, ("timed_out", None)),
        "trap : TERM INT HUP QUIT; while :; do sleep 1; done": (never_ends, ("timed_out", None)),
    }
    commits = [
        arena.repository.commit({".pbft-ci.yml": arena.pipeline(command, timeout_seconds=seconds)})
        for command, (seconds, _) in expected.items()
    ]
    results = await arena.run_all([Order(commit) for commit in commits])
    for (command, (_, words)), result in zip(expected.items(), results, strict=True):
        assert result.words == words, (command, result.log)


async def test_a_build_that_leaves_daemons(arena: Arena) -> None:
    """Looked for on the host by the environment that they inherited."""
    result = await arena.run(
        "for i in 1 2 3; do (setsid sh -c 'trap : TERM HUP; while :; do sleep 1; done' &) ; done",
        "(sleep 600 </dev/null >/dev/null 2>&1 &)",
        "nohup nc -l -p 8000 >/dev/null 2>&1 &",
    )
    assert result.words == ("passed", 0)


@pytest.mark.skipif(not is_root(), reason="only root can look into the processes of builds")
async def test_that_daemons_would_be_found(arena: Arena) -> None:
    """While a build runs, the look at the host's processes does see it."""
    builder = await arena.make_builder(arena.make_config(arena.repository.url))
    commit = arena.repository.commit({".pbft-ci.yml": arena.pipeline("echo on; sleep 600")})
    order = builder.order(arena.repository.url, commit)
    task = asyncio.create_task(builder.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    while not (path.exists() and "\non\n" in path.read_text()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert processes_of(order.build.hex())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    block_until(lambda: not processes_of(order.build.hex()), "the end of its processes")


async def test_another_builds_files_and_servers(arena: Arena) -> None:
    """Of one that runs meanwhile on the same node, in every place that a build can write to."""
    config = arena.make_config(arena.repository.url, builds_at_once=2)
    builder = await arena.make_builder(config, **LIMITS)
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    hidden = arena.repository.commit(
        {
            ".pbft-ci.yml": arena.pipeline(
                f"for p in . $HOME /tmp /dev/shm; do echo {first}{second} >$p/{first}; done",
                "nc -l -p 8000 -e echo heard & echo hidden; sleep 600",
                timeout_seconds=LIMITS["build_seconds_max"],
            )
        }
    )
    order = builder.order(arena.repository.url, hidden)
    task = asyncio.create_task(builder.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    while not (path.exists() and "\nhidden\n" in path.read_text()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    # its own file shows that the search finds what is there; the word is in no file of the commit
    search = arena.repository.commit(
        {
            ".pbft-ci.yml": arena.pipeline(
                f"word={first}; word=${{word}}{second}; echo $word >/tmp/own",
                "found=$(find / '(' -path /proc -o -path /sys ')' -prune -o -type f"
                ' -exec grep -ls "$word" {} + 2>/dev/null || true)',
                'echo "found $found"; test "$found" = /tmp/own',
                f'test -z "$(find / -name {first} 2>/dev/null)"',
                "! nc -w 2 localhost 8000 </dev/null",
                'test "$(cat /proc/net/unix | wc -l)" = 1',
                "exit 7",
            )
        }
    )
    asked = builder.order(arena.repository.url, search)
    finding = await builder.find(asked)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finding.compared.exit_code == 7, builder.log(asked)
