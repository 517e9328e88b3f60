"""Pipelines of several steps in real containers: what they share, and how they end."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from ci.operations import Abstain, Event, Outcome
from common.configuration.config import PackageProxies
from driver.ports import BuildOrder
from node.sandboxes.containers import container_run
from node.sandboxes.containers.docker_engine import CLUSTER_LABEL
from node.sandboxes.containers.egress_filter import BRIDGE_PREFIX
from node.sandboxes.sandbox import GRACE_SECONDS, NETWORK_WAS_OFF
from tests.node.conftest import PATIENCE_SECONDS, Builder, Room, pipeline, things_of, until

pytestmark = pytest.mark.docker


def steps(image: str, *entries: dict[str, object], **more: object) -> str:
    """A pipeline file with these steps, named s1, s2 ... where they have no name."""
    named = [{"name": f"s{number}", **entry} for number, entry in enumerate(entries, 1)]
    return json.dumps({"image": image, "steps": named, **more})


def last_line(log: str) -> str:
    return log.rstrip("\n").rpartition("\n")[2]


async def test_steps_share_the_workspace_and_home_and_nothing_else(room: Room) -> None:
    text = steps(
        room.image,
        {
            "commands": [
                "cat file",
                "echo made >made; echo kept >$HOME/kept; echo lost >/tmp/lost",
                "chmod 600 made; ln -s made link",
                # a daemon that outlives its shell
                "sleep 600 & ls /proc >/dev/null",
            ]
        },
        {
            "commands": [
                'test "$(cat link) $(cat $HOME/kept)" = "made kept"',
                "test ! -e /tmp/lost",
                "! grep -x sleep /proc/[0-9]*/comm",
                'test "$PWD $HOME" = "/workspace /home/build"',
            ]
        },
    )
    compared, log = await room.run_files({".pbft-ci.yml": text, "file": "1"})
    assert compared.exit_code == 0, log
    assert "step s1 (1 of 2)" in log
    assert "step s2 (2 of 2)" in log


async def test_the_first_step_that_fails_is_the_last(room: Room) -> None:
    text = steps(
        room.image, {"commands": ["true"]}, {"commands": ["exit 3"]}, {"commands": ["echo no"]}
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 3)
    assert "step s2 did not pass" in log
    assert "s3" not in log


async def test_what_a_build_knows_of_itself(room: Room) -> None:
    shown = "env | grep -E '^(CI|PBFTCI|MODE|SOURCE|TZ)' | sort"
    text = steps(
        room.image,
        {"commands": [shown], "environment": {"MODE": "step", "TZ": "CET"}},
        {"commands": [shown]},
        environment={"MODE": "all"},
    )
    commit = room.repository.commit({".pbft-ci.yml": text})
    builder = await room.make_builder(room.make_config(room.repository.url))
    order = builder.order(room.repository.url, commit)
    await builder.find(order)
    said = [line for line in builder.log(order).split("\n") if "=" in line and "+" not in line]
    seconds = room.repository.git("log", "-1", "--format=%ct")

    def expected(step: str, mode: str, zone: str) -> list[str]:
        return [
            "CI=true",
            f"MODE={mode}",
            "PBFTCI=true",
            "PBFTCI_BRANCH=main",
            f"PBFTCI_BUILD={order.build.hex()}",
            f"PBFTCI_COMMIT={commit}",
            "PBFTCI_EVENT=push",
            "PBFTCI_REF=refs/heads/main",
            f"PBFTCI_REPOSITORY={room.repository.url}",
            f"PBFTCI_STEP={step}",
            f"SOURCE_DATE_EPOCH={seconds}",
            f"TZ={zone}",
        ]

    assert said == expected("s1", "step", "CET") + expected("s2", "all", "UTC")


async def test_when(room: Room) -> None:
    text = steps(
        room.image,
        {"commands": ["echo always"]},
        {"commands": ["exit 9"], "when": {"branch": "release/*"}},
        {"commands": ["exit 9"], "when": {"event": ["tag", "pull_request"]}},
        {"commands": ["echo here"], "when": {"branch": ["x", "ma*"], "event": "push"}},
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert compared.exit_code == 0
    assert "\nalways\n" in log
    assert "\nhere\n" in log
    assert "step s2: not for this branch and event" in log


async def test_nothing_to_do_is_skipped_and_never_passed(room: Room) -> None:
    """No image is asked for: there may be none on this machine."""
    text = steps("127.0.0.1:1/none", {"commands": ["exit 9"], "when": {"event": "tag"}})
    commit = room.repository.commit({".pbft-ci.yml": text})
    builder = await room.make_builder(room.make_config(room.repository.url))
    order = builder.order(room.repository.url, commit)
    finding = await builder.find(order)
    assert (finding.compared.outcome, finding.compared.exit_code) == (Outcome.SKIPPED, None)
    assert finding.compared.image_digest is None
    assert "nothing passes" in builder.log(order)
    tag = BuildOrder(
        b"t" * 32,
        1,
        room.repository.url,
        "main",
        commit,
        builder.limits,
        event=Event.TAG,
        ref="refs/heads/main",
    )
    assert isinstance(await builder.build(tag), Abstain)


@pytest.mark.parametrize("whose", ["step", "whole"])
async def test_time_limits(room: Room, whose: str) -> None:
    entries: list[dict[str, object]] = [{"commands": ["true"]}, {"commands": ["sleep 600"]}]
    if whose == "step":
        entries[1]["timeout_seconds"] = 1
        text = steps(room.image, *entries)
    else:
        # a busy machine takes some seconds for the first one
        text = steps(room.image, *entries, timeout_seconds=20)
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert (compared.outcome, compared.exit_code) == (Outcome.TIMED_OUT, None)
    assert "step s2 did not pass: ended after " in log
    assert ("it may take 1 s" if whose == "step" else "the longest before it: s1 ") in log


async def test_what_a_failure_does_not_stop(room: Room) -> None:
    """A step that is out of memory is ignored; then one fails, and what is to follow sees why."""
    text = steps(
        room.image,
        {"commands": ["tail /dev/zero"], "failure": "ignore"},
        {"commands": ["echo reason >why", "exit 3"]},
        {"commands": ["echo no"]},
        {
            "commands": ['test "$(cat why)" = reason', "echo seen", "exit 4"],
            # it is offline here, which does not count: the outcome is that of the second step
            "network": True,
            "when": {"status": "failure"},
        },
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 3), log
    assert [step.choice for step in compared.steps] == [None, True, True, True]
    assert "step s1 did not pass: out of memory after " in log
    assert "ignored (failure: ignore)" in log
    assert "step s3" not in log
    assert "\nseen\n" in log
    assert "step s4 did not pass: exit code 4 after " in log


async def test_an_only_step_whose_failure_is_ignored(room: Room) -> None:
    text = steps(room.image, {"commands": ["exit 3"], "failure": "ignore"})
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert (compared.outcome, compared.exit_code) == (Outcome.PASSED, 0)
    assert [step.choice for step in compared.steps] == [None]
    assert "step s1 did not pass: exit code 3 after " in log


async def test_full_file_systems_are_errors_of_the_build_and_no_lack_of_memory(room: Room) -> None:
    """Each holds what it should, then says "no space left", though all of it is in memory."""
    compared, log = await room.run(
        "head -c 50000000 /dev/zero >a && head -c 12000000 /dev/zero >$HOME/a",
        "head -c 60000000 /dev/zero >/tmp/a",
        "! cat /dev/zero >b",
        "! cat /dev/zero >$HOME/b",
        "! cat /dev/zero >/tmp/b",
        "exit 7",
        limits={"memory_bytes": 32 * 2**20},
    )
    assert compared.exit_code == 7, log
    assert log.count("No space left on device") == 3


@pytest.mark.parametrize(("builds_at_once", "is_warned"), [(1, False), (256, True)])
async def test_more_memory_than_there_is_is_told_at_the_start(
    room: Room, caplog: pytest.LogCaptureFixture, builds_at_once: int, is_warned: bool
) -> None:
    config = room.make_config(room.repository.url, builds_at_once=builds_at_once)
    machine_bytes = (await asyncio.to_thread(room.engine.info))["MemTotal"]
    await room.make_builder(config, workspace_bytes=2**20, memory_bytes=machine_bytes // 4)
    assert ("of memory (builds_at_once 256" in caplog.text) is is_warned


async def test_resources_are_those_of_the_pipeline(room: Room) -> None:
    compared, log = await room.run(
        "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done || true",
        resources={"memory": "32 MiB", "cpus": 0.5, "pids": 20},
        limits={"pids_max": 256},
    )
    assert compared.outcome is not Outcome.PASSED
    assert "can't fork" in log
    compared, _ = await room.run("tail /dev/zero", resources={"memory": "16 MiB"})
    assert compared.outcome is Outcome.OUT_OF_MEMORY


async def test_without_a_network_a_red_build_ends_its_log_with_the_reason(room: Room) -> None:
    resolve = "echo 'Could not resolve host: example.org'"
    compared, log = await room.run('test "$(ls /sys/class/net)" = lo', f"{resolve}; exit 4")
    assert compared.exit_code == 4
    assert last_line(log) == f"[pbft-ci] {NETWORK_WAS_OFF}"
    compared, log = await room.run("true")
    assert compared.exit_code == 0
    assert NETWORK_WAS_OFF not in log
    compared, log = await room.run("exit 4")
    assert compared.exit_code == 4
    assert NETWORK_WAS_OFF not in log, "nothing looks as if that were the reason"
    dockerfile = f"FROM {room.image}\nRUN {resolve}; exit 5\n"
    compared, log = await room.run_files({"Dockerfile": dockerfile})
    assert compared.exit_code == 5
    assert last_line(log) == f"[pbft-ci] {NETWORK_WAS_OFF}"


async def test_a_network_that_this_operator_does_not_allow(room: Room) -> None:
    """What passes without it has passed; what does not says nothing of what it does elsewhere."""
    builder = await room.make_builder(
        room.make_config(room.repository.url, abstain_after_seconds=60)
    )
    text = pipeline(room.image, 'test "$(ls /sys/class/net)" = lo', network=True)
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    assert (await builder.find(order)).compared.exit_code == 0
    text = pipeline(room.image, "exit 4", network=True)
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    ballot = await asyncio.wait_for(builder.build(order), PATIENCE_SECONDS)
    assert isinstance(ballot, Abstain)
    assert "network_allowed" in ballot.reason
    assert NETWORK_WAS_OFF in last_line(builder.log(order))


async def test_a_network_of_its_own_for_the_step_that_asks(room: Room, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(b"certificates\n" * 100_000)
    proxies = PackageProxies(pip="https://p.example/simple/", npm="https://p.example/npm/")
    config = room.make_config(
        room.repository.url,
        network_allowed=True,
        build_ca_file=ca_file,
        package_proxies=proxies,
    )
    builder = await room.make_builder(config)
    text = steps(
        room.image,
        {
            "network": True,
            "environment": {"NPM_CONFIG_REGISTRY": "mine"},
            "commands": [
                "ls /sys/class/net | grep -q eth0",
                'test "$SSL_CERT_FILE$PIP_CERT" = /pbft-ci/ca.pem/pbft-ci/ca.pem',
                'test "$REQUESTS_CA_BUNDLE$NODE_EXTRA_CA_CERTS" = /pbft-ci/ca.pem/pbft-ci/ca.pem',
                'test "$(wc -c <$GIT_SSL_CAINFO)" = 1300000',
                # the operator's proxies, unless the pipeline names others
                'test "$PIP_INDEX_URL" = https://p.example/simple/',
                'test "$NPM_CONFIG_REGISTRY ${GOPROXY-unset}" = "mine unset"',
                "! echo x >>/pbft-ci/ca.pem",
                "! touch /pbft-ci/x",
                "cat /proc/self/status | grep -q 'CapBnd:\t0000000000000000'",
            ],
        },
        {"commands": ['test "$(ls /sys/class/net)" = lo', 'test -z "$PIP_CERT$PIP_INDEX_URL"']},
    )
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    finding = await builder.find(order)
    assert finding.compared.exit_code == 0, builder.log(order)
    assert not things_of(room.engine, builder.cluster_id)


async def test_builds_with_a_network_do_not_see_each_other(room: Room) -> None:
    """One listens and says where; the other cannot reach it."""
    config = room.make_config(room.repository.url, network_allowed=True)
    builder = await room.make_builder(config, build_seconds_max=600)
    listens = pipeline(
        room.image,
        "ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/address \\1/p'",
        "nc -l -p 8000 -w 600 </dev/null",
        network=True,
    )
    first = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": listens}))
    task = asyncio.create_task(builder.build(first))
    path = builder.runner.log_path(first.build, first.opened)
    await until(lambda: path.exists() and "+ nc -l" in path.read_text())
    address = path.read_text().partition("\naddress ")[2].partition("\n")[0]
    assert address
    # the operator's egress filter knows it by the name of its bridge
    (network,) = room.engine.networks.list(
        filters={"label": f"{CLUSTER_LABEL}={builder.cluster_id.hex()}"}
    )
    bridge = network.attrs["Options"]["com.docker.network.bridge.name"]
    assert bridge.startswith(BRIDGE_PREFIX)
    asked = await asyncio.to_thread(
        subprocess.run, ["iptables", "-S"], capture_output=True, text=True, check=False
    )
    is_kept_apart = bridge in asked.stdout
    if is_kept_apart:
        text = pipeline(room.image, f"! nc -w 3 {address} 8000 </dev/null", network=True)
        second = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
        finding = await builder.find(second)
        assert finding.compared.exit_code == 0, builder.log(second)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if not is_kept_apart:
        # `scripts/docker_engine.py` starts one so beside another engine
        pytest.skip("this engine makes no firewall rules, and keeps no networks apart")


async def cancelled(room: Room, *commands: str) -> tuple[str, float]:
    """Cancel a build that says "started": its log, and how long everything of it was there."""
    builder: Builder = await room.make_builder(room.make_config(room.repository.url))
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, *commands)})
    order = builder.order(room.repository.url, commit)
    task = asyncio.create_task(builder.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    await until(lambda: path.exists() and "\nstarted\n" in path.read_text())
    task.cancel()
    seconds = await until(lambda: not things_of(room.engine, builder.cluster_id))
    with pytest.raises(asyncio.CancelledError):
        await task
    return builder.log(order), seconds


async def test_a_cancelled_build_may_tidy_up(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_run, "GRACE_SECONDS", PATIENCE_SECONDS)
    log, _ = await cancelled(
        room,
        'sh -c \'trap "echo tidying; sleep 0.5; echo tidied; exit 1" TERM; echo started;'
        " while :; do sleep 0.1; done'",
        "echo never",
    )
    assert "\ntidying\n" in log
    assert "\ntidied\n" in log
    assert "\nnever" not in log


async def test_a_cancelled_build_that_will_not_hear_is_killed(room: Room) -> None:
    log, seconds = await cancelled(
        room, "trap '' TERM INT HUP; echo started; while :; do sleep 1; done"
    )
    assert seconds >= GRACE_SECONDS
    assert "asked to stop" in log
