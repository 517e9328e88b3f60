"""Builds in real containers: exit codes, limits, isolation, and that nothing is left of them."""

import asyncio
import gc
import json
import os
import re
import secrets
import sys
import tracemalloc
from pathlib import Path

import docker
import pytest

from ci.operations import Abstain, BuildResult, Outcome
from common.pipeline.pipeline_file import ONLY_STEP
from node.sandboxes.containers.docker_engine import BUILD_LABEL, CLUSTER_LABEL, REPLICA_LABEL
from node.sandboxes.containers.docker_sandbox import DockerSandbox
from tests.node.conftest import (
    ASK_LOOPBACK,
    FORK_BOMB,
    PATIENCE_SECONDS,
    BuilderMaker,
    ConfigMaker,
    Room,
    pipeline,
    things_of,
    until,
)

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("code", [0, 7, 255])
async def test_the_exit_code_is_that_of_the_commands(room: Room, code: int) -> None:
    compared, log = await room.run("echo hello", f"exit {code}")
    assert compared.exit_code == code
    assert compared.outcome is (Outcome.PASSED if code == 0 else Outcome.FAILED)
    assert "+ echo hello\nhello\n" in log


async def test_the_first_command_that_fails_is_the_last(room: Room) -> None:
    compared, log = await room.run("set -- a b; cd /tmp", "pwd; test $# = 2", "false", "echo no")
    assert compared.exit_code == 1
    assert "\n/tmp\n" in log
    assert "no\n" not in log.replace("image", "")


async def test_a_syntax_error_in_one_command_stays_in_it(room: Room) -> None:
    compared, log = await room.run("echo one", 'echo "', "echo three")
    assert compared.outcome is Outcome.FAILED
    assert "\none\n" in log
    assert "+ echo three" not in log


async def test_commands_see_the_tree_and_a_fixed_environment(
    room: Room,
) -> None:
    files: dict[str, str | bytes] = {
        "folder/a file": "content",
        "run.sh": "#!/bin/sh\necho ran\n",
        ".pbft-ci.yml": pipeline(
            room.image,
            'test "$(cat "folder/a file")" = content',
            "sh run.sh",
            'test "$CI $TZ $LC_ALL" = "true UTC C.UTF-8"',
            'test "$SOURCE_DATE_EPOCH" -gt 1600000000',
            "touch written $HOME/written",
            "test ! -e .git",
            # nothing to read, and the size of the tree does not leak into it
            'test -z "$(cat)"',
        ),
    }
    compared, log = await room.run_files(files)
    assert compared.exit_code == 0, log


async def test_a_build_that_takes_too_long_is_timed_out(room: Room) -> None:
    compared, log = await room.run("echo early; sleep 600", timeout_seconds=20)
    assert compared.outcome is Outcome.TIMED_OUT
    assert compared.exit_code is None
    assert "\nearly\n" in log


async def test_a_build_that_closes_its_output_is_still_waited_for(room: Room) -> None:
    compared, _ = await room.run("exec >/dev/null 2>&1; sleep 1; exit 5")
    assert compared.exit_code == 5


async def test_100_megabytes_of_log_are_cut_and_the_exit_code_is_right(room: Room) -> None:
    limit = 64 * 1024
    tracemalloc.start()
    try:
        compared, log = await room.run(
            "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last; exit 3",
            limits={"log_bytes_max": limit},
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert compared.exit_code == 3
    assert len(log) <= limit
    assert "\nfirst\n" in log
    assert "\nlast\n" in log
    cut = int(log.partition("[pbft-ci] ... ")[2].partition(" bytes were cut")[0])
    assert 100_000_000 - limit < cut < 100_000_000
    assert peak_bytes < 16 * 2**20


async def test_memory_hog(room: Room) -> None:
    compared, _ = await room.run("tail /dev/zero")
    assert compared.outcome is Outcome.OUT_OF_MEMORY
    assert compared.exit_code is None


async def test_a_build_that_survives_an_out_of_memory_kill_has_its_own_exit_code(
    room: Room,
) -> None:
    compared, _ = await room.run("tail /dev/zero || true", "exit 0")
    assert compared.outcome is Outcome.PASSED


async def test_a_fork_bomb_harms_nobody_else(
    room: Room, make_builder: BuilderMaker, make_config: ConfigMaker
) -> None:
    builder = await make_builder(make_config(room.repository.url), pids_max=64)
    bomb = room.repository.commit({".pbft-ci.yml": pipeline(room.image, *FORK_BOMB)})
    quiet = room.repository.commit({".pbft-ci.yml": pipeline(room.image, "exit 0")})
    orders = [builder.order(room.repository.url, commit) for commit in (bomb, quiet)]
    found = await asyncio.gather(*(builder.find(order) for order in orders))
    assert [finding.compared.exit_code for finding in found] == [4, 0]
    assert "can't fork" in builder.log(orders[0])


# around whatever runs; each line is a command of a shell that stops at the first that fails
CHECKS = (
    "grep -q 'Seccomp:\t2' /proc/self/status",
    'test "$(ls /sys/class/net)" = lo',
    ASK_LOOPBACK,
    "! nc -w 2 1.1.1.1 80 </dev/null",
    "test $(ulimit -n) = 16384",
    "test $(ulimit -c) = 0",
    "test ! -e /var/run/docker.sock",
    "! cat /dev/mem 2>/dev/null",
)
# around what is not an instruction of a Dockerfile
CHECKS_AS_NOBODY = (
    'test "$(id -u):$(id -g)" = 65534:65534',
    "grep -q 'CapBnd:\t0000000000000000' /proc/self/status",
    "grep -q 'NoNewPrivs:\t1' /proc/self/status",
    "! touch /bin/x",
    "! touch /etc/x",
    "! head -c 70000000 /dev/zero >/tmp/big",
    "rm /tmp/big",
    "! head -c 20000000 /dev/zero >$HOME/big",
    "rm $HOME/big",
)
# The log is cut, processes are refused, and the time ends it.
FLOODS = (
    "head -c 1000000 /dev/zero | tr '\\0' x; echo",
    # by the same pipe as the flood, or else it may come into the log among what is cut
    "(for i in $(seq 100); do sleep 600 & done) 2>&1 || true",
    "echo the isolation holds",
    "exec sleep 600",
)
CHECK_LIMITS: dict[str, object] = {
    # a busy machine takes many seconds for the checks alone
    "build_seconds_max": 20,
    "pids_max": 32,
    "memory_bytes": 256 * 2**20,
    "workspace_bytes": 16 * 2**20,
    "log_bytes_max": 64 * 1024,
}


@pytest.mark.parametrize("kind", ["step", "CMD"])
async def test_the_isolation_of_a_build(room: Room, kind: str) -> None:
    """Nobody's user, no capabilities, no network but lo, a read-only root, bounded file systems.

    And so many processes, so much output, so much time.
    """
    commands = (*CHECKS, *CHECKS_AS_NOBODY, *FLOODS)
    files: dict[str, str | bytes] = {}
    if kind == "step":
        files[".pbft-ci.yml"] = pipeline(
            room.image, *commands[:-4], "! head -c 20000000 /dev/zero >big", "rm big", *FLOODS
        )
    else:
        script = json.dumps(["sh", "-e", "-c", "\n".join(commands)])
        files["Dockerfile"] = f"FROM {room.image}\nCMD {script}\n"
    compared, log = await room.run_files(files, CHECK_LIMITS)
    assert (compared.outcome, compared.exit_code) == (Outcome.TIMED_OUT, None), log
    assert "can't fork" in log
    assert "the isolation holds" in log
    assert len(log) <= 64 * 1024


async def test_the_limits_of_an_instruction(room: Room) -> None:
    """RUN is root with the engine's own capabilities: all else is as for a step (OPERATING.md)."""
    flood, _, stand, wait = FLOODS
    # few containers: on a busy machine each takes a part of the time that is to run out at the end
    commands = (" && ".join(CHECKS), flood, f"{stand}; {wait}")
    lines = "".join(f"RUN {command}\n" for command in commands)
    text = f"FROM {room.image}\nRUN test $(id -u) = 0\n{lines}CMD true\n"
    compared, log = await room.run_files({"Dockerfile": text}, CHECK_LIMITS)
    assert (compared.outcome, compared.exit_code) == (Outcome.TIMED_OUT, None), log
    assert "\nthe isolation holds\n" in log
    assert len(log) <= 64 * 1024


async def test_every_instruction_runs_in_every_build(room: Room) -> None:
    """A build takes no layer of another one, also while that is there (decision 0045)."""
    builder = await room.make_builder(room.make_config(room.repository.url, builds_at_once=2))
    text = f"FROM {room.image}\nRUN cat /proc/sys/kernel/random/uuid\nCMD "
    url, commit = room.repository.url, room.repository.commit
    first = builder.order(url, commit({"Dockerfile": text + "echo started; sleep 600\n"}))
    running = asyncio.create_task(builder.runner.build(first))
    path = builder.runner.log_path(first.build, first.opened)
    await until(lambda: path.exists() and "\nstarted\n" in path.read_text())
    second = builder.order(url, commit({"Dockerfile": text + "true\n"}))
    found = await builder.runner.build(second)
    assert isinstance(found, BuildResult), found
    assert found.compared.outcome is Outcome.PASSED
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = [re.findall(r"(?m)^[0-9a-f-]{36}$", builder.log(order)) for order in (first, second)]
    assert [len(one) for one in said] == [1, 1]
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("instruction", "problem"),
    [
        # without an end: what is measured ends it
        (
            "RUN for i in $(seq 40); do sleep 600 & done; wait",
            "an instruction has more than 32 processes",
        ),
        (
            "RUN for i in $(seq 40); do head -c 9000000 /dev/zero >$i; done; sleep 600",
            "the build wrote more than 100663296 bytes into its image",
        ),
    ],
)
async def test_limits_of_an_instruction_that_are_measured(
    room: Room, instruction: str, problem: str
) -> None:
    text = f"FROM {room.image}\n{instruction}\nCMD true\n"
    compared, log = await room.run_files(
        {"Dockerfile": text}, CHECK_LIMITS | {"build_seconds_max": 60}
    )
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 1), log
    assert f"[pbft-ci] Dockerfile: {problem}\n" in log


async def test_an_image_that_is_not_there_and_a_registry_that_is_down(room: Room) -> None:
    builder = await room.make_builder(
        room.make_config(room.repository.url, images_from=("127.0.0.1:1",), abstain_after_seconds=1)
    )
    text = pipeline("127.0.0.1:1/nobody/nothing:1", "true")
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    ballot = await builder.build(order)
    assert isinstance(ballot, Abstain)
    assert "127.0.0.1:1/nobody/nothing:1" in ballot.reason


async def test_the_id_of_an_image_is_no_name(room: Room) -> None:
    """Ids of intermediate images would lead into the builds of others."""
    builder = await room.make_builder(
        room.make_config(room.repository.url, abstain_after_seconds=1, pull_timeout_seconds=5)
    )
    image_id = str(room.engine.images.get(room.image).id).removeprefix("sha256:")
    for shown in (image_id[:12], image_id[:40]):
        commit = room.repository.commit({".pbft-ci.yml": pipeline(shown, "true")})
        ballot = await builder.build(builder.order(room.repository.url, commit))
        assert isinstance(ballot, Abstain) or (ballot.compared.outcome is Outcome.IMAGE_UNAVAILABLE)


async def test_an_image_without_a_shell_is_a_failed_build(room: Room) -> None:
    name = f"pbft-ci-test/empty:{secrets.token_hex(4)}"
    room.local_images.append(name)
    repository, _, tag = name.partition(":")
    room.engine.api.import_image_from_data(b"\0" * 10240, repository=repository, tag=tag)
    try:
        text = pipeline(name, "true")
        compared, _ = await room.run_files({".pbft-ci.yml": text})
    finally:
        room.engine.images.remove(name, force=True)
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 127)


@pytest.mark.parametrize("kind", ["pipeline", "dockerfile"])
async def test_cancelling_leaves_nothing(room: Room, kind: str) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url))
    service = {"name": "beside", "image": room.image, "command": ["sleep", "600"]}
    more = {"services": [service]} if kind == "services" else {}
    files: dict[str, str | bytes] = (
        {"Dockerfile": f"FROM {room.image}\nRUN true\nRUN echo started; sleep 600\n"}
        if kind == "dockerfile"
        else {".pbft-ci.yml": pipeline(room.image, "echo started; sleep 600", **more)}
    )
    order = builder.order(room.repository.url, room.repository.commit(files))
    task = asyncio.create_task(builder.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    await until(lambda: path.exists() and "\nstarted\n" in path.read_text())
    assert things_of(room.engine, builder.cluster_id)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_SECONDS)
    await until(lambda: not things_of(room.engine, builder.cluster_id))
    assert builder.state(order) == "none"
    assert not (path.parent / "work").exists()


async def test_start_removes_what_a_crash_left_but_nothing_of_others(room: Room) -> None:
    mine, other = secrets.token_bytes(32), secrets.token_bytes(32)

    def leave(cluster: bytes, replica: str) -> str:
        labels = {
            CLUSTER_LABEL: cluster.hex(),
            REPLICA_LABEL: replica,
            BUILD_LABEL: f"{secrets.token_hex(32)}-1",
        }
        made = room.engine.containers.run(
            room.image, ["sleep", "600"], detach=True, labels=labels, network_mode="none"
        )
        container_id = made.id
        assert container_id is not None
        return str(container_id)

    own = leave(mine, "node0")
    foreign = {leave(mine, "node1"), leave(other, "node0")}
    try:
        await room.make_builder(room.make_config(room.repository.url), mine)
        there = {container["Id"] for container in room.engine.api.containers(all=True)}
        assert own not in there
        assert foreign <= there
    finally:
        for container_id in (*foreign, own):
            try:
                room.engine.api.remove_container(container_id, force=True, v=True)
            except docker.errors.NotFound:
                assert container_id == own
    assert not things_of(room.engine, mine)


def look_when_allowed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let no sandbox look for leftovers from now on, until this is set."""
    may_look = asyncio.Event()
    look = DockerSandbox._remove_leftovers

    async def look_later(self: DockerSandbox) -> None:
        await may_look.wait()
        await look(self)

    monkeypatch.setattr(DockerSandbox, "_remove_leftovers", look_later)
    return may_look


async def test_what_the_engine_makes_late_for_one_that_crashed_goes_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for it before the crash; and a build that runs by now is left alone."""
    monkeypatch.setattr("node.sandboxes.containers.docker_sandbox.LOOK_AGAIN_SECONDS", 0.0)
    builder = await room.make_builder(room.make_config(room.repository.url))
    may_look = look_when_allowed(monkeypatch)
    labels = {
        CLUSTER_LABEL: builder.cluster_id.hex(),
        REPLICA_LABEL: "node0",
        BUILD_LABEL: f"{secrets.token_hex(32)}-1",
    }
    late = room.engine.containers.create(room.image, ["true"], labels=labels)
    wait = "echo begun; until test -e /tmp/go; do sleep 0.1; done; exit 5"
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, wait)})
    order = builder.order(room.repository.url, commit)
    task = asyncio.create_task(builder.find(order))
    path = builder.runner.log_path(order.build, order.opened)
    await until(lambda: path.exists() and "\nbegun\n" in path.read_text())
    may_look.set()
    await until(lambda: late.id not in things_of(room.engine, builder.cluster_id))
    (running,) = things_of(room.engine, builder.cluster_id)
    made = room.engine.api.exec_create(running, ["touch", "/tmp/go"])
    room.engine.api.exec_start(made["Id"])
    assert (await task).compared.exit_code == 5
    assert not things_of(room.engine, builder.cluster_id)


async def test_what_an_earlier_try_left_is_not_in_the_way_of_the_next(room: Room) -> None:
    """It has the same names; the engine did not remove it when it was asked to."""
    builder = await room.make_builder(room.make_config(room.repository.url))
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, "true")})
    order = builder.order(room.repository.url, commit)
    label = f"{order.build.hex()}-{order.opened}"
    labels = {
        CLUSTER_LABEL: builder.cluster_id.hex(),
        REPLICA_LABEL: "node0",
        BUILD_LABEL: label,
    }
    name = f"pbft-ci-{builder.cluster_id.hex()[:8]}-node0-{label}-1-{ONLY_STEP}"
    room.engine.containers.create(room.image, ["true"], name=name, labels=labels)
    sandbox = builder.runner._sandbox
    assert isinstance(sandbox, DockerSandbox)
    sandbox._has_leftovers = True
    await builder.find(order)
    assert "infrastructure error" not in builder.log(order)
    assert not things_of(room.engine, builder.cluster_id)


CRASH = """
import asyncio, sys
from ci.limits import Limits
from common.configuration.config import NodeConfig, RepositoryEntry
from common.address import Address
from driver.ports import BuildOrder
from node.builds.build_runner import BuildRunner
from pathlib import Path

async def main(folder, url, commit, cluster, image):
    path = Path(folder)
    config = NodeConfig(
        path, path, "node0", path, Address("127.0.0.1", 1), path / "data", path,
        (RepositoryEntry(url, local_images=(image,)),), allow_dockerfile=True,
    )
    runner = BuildRunner(
        config=config, cluster_id=bytes.fromhex(cluster), version="test"
    )
    await runner.start(Limits())
    await runner.build(BuildOrder(bytes(32), 1, url, "main", commit, Limits()))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["pipeline", "services", "dockerfile"])
async def test_a_node_that_is_killed_leaves_nothing_after_its_next_start(
    room: Room, kind: str, tmp_path: Path
) -> None:
    cluster_id = secrets.token_bytes(32)
    files: dict[str, str | bytes] = (
        {".pbft-ci.yml": pipeline(room.image, "echo started; sleep 600")}
        if kind == "pipeline"
        else {"Dockerfile": f"FROM {room.image}\nRUN true\nRUN echo started; sleep 600\n"}
    )
    commit = room.repository.commit(files)
    arguments = (str(tmp_path), room.repository.url, commit, cluster_id.hex(), room.image)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASH, *arguments)
    log = tmp_path / "data" / "builds" / f"{'00' * 32}-1" / "log"
    await until(lambda: log.exists() and "\nstarted\n" in log.read_text())
    process.kill()
    await process.wait()
    assert things_of(room.engine, cluster_id)
    await room.make_builder(room.make_config(room.repository.url), cluster_id)
    await until(lambda: not things_of(room.engine, cluster_id))
    assert not (log.parent / "work").exists()
    assert log.exists()


async def test_many_builds_leave_no_connections_open(room: Room) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url))
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, "true")})

    async def open_files_after(count: int) -> int:
        orders = [builder.order(room.repository.url, commit) for _ in range(count)]
        await asyncio.gather(*(builder.find(order) for order in orders))
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    first = await open_files_after(4)
    # one for each build would be 12; a few come and go with the pool
    assert await open_files_after(12) <= first + 6


async def test_an_engine_that_is_down_is_an_infrastructure_error(room: Room) -> None:
    config = room.make_config(
        room.repository.url, docker_host="unix:///nowhere/docker.sock", abstain_after_seconds=1
    )
    builder = await room.make_builder(config)
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, "true")})
    ballot = await builder.build(builder.order(room.repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert not isinstance(ballot, BuildResult)
    assert "Docker" in ballot.reason
