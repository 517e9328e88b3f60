"""Services beside the steps of a build, in real containers: ready, reached, confined, gone."""

import asyncio
import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence

import docker
import pytest

from ci.operations import Abstain, Outcome
from node.sandboxes.containers import container
from tests.node.conftest import FORK_BOMB, PATIENCE_SECONDS, Room, things_of

pytestmark = pytest.mark.docker

# Answers each caller; it listens on all addresses.
SERVER = ("nc", "-ll", "-p", "8000", "-e", "echo", "heard")
WEB: dict[str, object] = {"command": ["sleep", "600"]}
ASK = 'test "$(nc -w 9 web 8000 </dev/null)" = heard'


def serving(
    image: str, *commands: str, services: Sequence[Mapping[str, object]], **more: object
) -> str:
    """A pipeline file of one step, with services, each in that image if it names no other."""
    listed = [{"name": "web", "image": image, **entry} for entry in services]
    return json.dumps({"image": image, "commands": commands, "services": listed, **more})


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


async def abstention(room: Room, text: str, **settings: object) -> tuple[str, str]:
    """Why a replica abstains on a commit with this pipeline file; and the log."""
    config = room.make_config(room.repository.url, abstain_after_seconds=1, **settings)
    builder = await room.make_builder(config)
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    ballot = await asyncio.wait_for(builder.build(order), PATIENCE_SECONDS)
    assert isinstance(ballot, Abstain), builder.log(order)
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)
    return ballot.reason, builder.log(order)


async def test_every_step_reaches_a_service_by_its_name_and_it_is_confined_like_a_step(
    room: Room,
) -> None:
    look = (
        "exec 2>&1; id -u; grep CapBnd /proc/self/status; ls /sys/class/net; touch /x;"
        " touch /tmp/x /own/x; echo variable $MODE $CI; ls /workspace; printf unfinished;"
    )
    text = json.dumps(
        {
            "image": room.image,
            "environment": {"MODE": "of the steps"},
            "services": [
                {
                    "name": "web",
                    "image": room.image,
                    "command": shell(f"{look} exec {' '.join(SERVER)}"),
                    "environment": {"MODE": "own"},
                    "temporary": ["/own"],
                    "ready": {"port": 8000},
                }
            ],
            "steps": [
                {"name": "one", "commands": [ASK, "nc -w 9 localhost 8000 </dev/null"]},
                {"name": "two", "commands": [ASK, 'test "$(ls /sys/class/net)" = lo', "exit 3"]},
            ],
        }
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert compared.exit_code == 3, log
    assert compared.image_digest is None, "one image is used, under one name"
    said = [line for line in log.split("\n") if line.startswith("[web] ")]
    assert said[:3] == ["[web] 65534", "[web] CapBnd:\t0000000000000000", "[web] lo"], log
    assert said[3:] == [
        "[web] touch: /x: Read-only file system",
        "[web] variable own",
        "[web] ls: /workspace: No such file or directory",
        "[web] unfinished",
    ]
    assert log.index("service web is ready") < log.index("step one (1 of 2)")


@pytest.fixture
def healthy_image(room: Room) -> Iterator[str]:
    """An image with a HEALTHCHECK, and with a volume."""
    name = f"pbft-ci-example/healthy:{secrets.token_hex(8)}"
    text = f"FROM {room.image}\nVOLUME /data\nHEALTHCHECK CMD test -e /data/ready\n"
    room.engine.images.build(fileobj=io.BytesIO(text.encode()), tag=name, rm=True)
    room.local_images.append(name)
    yield name
    room.engine.images.remove(name)


@pytest.mark.parametrize("ready", ["command", "image"])
async def test_a_service_is_ready_when_its_command_or_its_image_says_so(
    room: Room, healthy_image: str, ready: str
) -> None:
    """The step begins after that: the file is there at its first look."""
    folder = "/data" if ready == "image" else "/tmp"
    service: dict[str, object] = {
        "image": healthy_image,
        "command": shell(
            f"sleep 1; touch {folder}/ready; exec nc -ll -p 8000 -e ls {folder}/ready"
        ),
    }
    if ready == "command":
        service["ready"] = {"command": ["test", "-e", "/tmp/ready"]}
    text = serving(
        room.image,
        f'until reply=$(nc -w 9 web 8000 </dev/null); do :; done; test "$reply" = {folder}/ready',
        services=[service],
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert compared.exit_code == 0, log
    assert [image.name for image in compared.images] == sorted((room.image, healthy_image))
    assert float(log.partition("service web is ready (")[2].partition(" s)")[0]) >= 1


async def test_a_service_without_a_sign_is_ready_when_it_has_started(room: Room) -> None:
    """That it ends is no finding: when that is noticed depends on the machine."""
    ended = {"name": "brief", "command": shell("echo last words; exit 5")}
    text = serving(
        room.image,
        "i=0; until grep -q brief /etc/hosts; do :; done; sleep 1",
        services=[ended, {"command": list(SERVER)}],
    )
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert compared.exit_code == 0, log
    assert "[brief] last words\n" in log
    assert log.count("service brief ended with exit code 5 (noticed after step build)") == 1


@pytest.mark.parametrize(
    ("script", "outcome", "problem"),
    [
        ("echo no; sleep 1; echo more; exit 4", Outcome.FAILED, "ended with exit code 4"),
        ("tail /dev/zero", Outcome.OUT_OF_MEMORY, "had too little memory"),
    ],
)
async def test_a_service_that_ends_before_it_is_ready_is_a_finding(
    room: Room, script: str, outcome: Outcome, problem: str
) -> None:
    ended = {"command": shell(script), "ready": {"port": 8000}}
    text = serving(room.image, "echo never", services=[ended])
    compared, log = await room.run_files({".pbft-ci.yml": text})
    assert compared.outcome is outcome, log
    assert compared.exit_code == (1 if outcome is Outcome.FAILED else None)
    assert f"service web {problem} before it was ready" in log
    assert "[web] more\n" in log or outcome is Outcome.OUT_OF_MEMORY
    assert "never" not in log


@pytest.mark.parametrize(
    ("ready", "problem"),
    [
        ({"port": 8000}, "nothing listens on its port 8000 on all addresses"),
        ({"command": ["false"]}, "its command fails"),
        ({"command": ["sleep", "600"]}, "its command fails"),
    ],
)
async def test_a_service_that_is_too_slow_makes_the_replica_abstain(
    room: Room, ready: dict[str, object], problem: str
) -> None:
    """Also one that listens, but on the loopback address alone, as servers do while they set up."""
    slow = {
        "command": ["httpd", "-f", "-p", "127.0.0.1:8000"],
        "ready": {**ready, "seconds": 1},
    }
    reason, log = await abstention(room, serving(room.image, "echo never", services=[slow]))
    assert f"service web is not ready after 1 s: {problem}" in reason
    assert "never" not in log


async def test_a_step_with_a_network_sees_no_services(room: Room) -> None:
    """Wherever it runs: an operator that allows no network must not find something else."""
    text = serving(
        room.image,
        "! nc -w 1 web 8000 </dev/null",
        "! nc -w 1 127.0.0.1 8000 </dev/null",
        services=[{"command": list(SERVER), "ready": {"port": 8000}}],
        network=True,
    )
    for is_allowed in (False, True):
        config = room.make_config(room.repository.url, network_allowed=is_allowed)
        builder = await room.make_builder(config)
        order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
        assert (await builder.find(order)).compared.exit_code == 0, builder.log(order)
        assert "step build has network: true, so it sees no services" in builder.log(order)


async def test_root_is_for_services_that_ask_where_the_operator_allows_it(room: Room) -> None:
    asks = {
        # it ends, so all that it says is waited for
        "command": shell(
            # one stream: of two, either may be read first
            "exec 2>&1; id -u; mkdir /own/x && chown 7:7 /own/x && echo prepared;"
            " mount -t tmpfs none /own; mknod /own/disk b 8 0; touch /x; exit 3"
        ),
        "temporary": ["/own"],
        "root": True,
        "ready": {"port": 8000},
    }
    text = serving(room.image, ASK, services=[asks])
    reason, _ = await abstention(room, text)
    assert "services_as_root" in reason
    builder = await room.make_builder(room.make_config(room.repository.url, services_as_root=True))
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    assert (await builder.find(order)).compared.outcome is Outcome.FAILED
    log = builder.log(order)
    assert "service web ended with exit code 3 before it was ready" in log
    assert "[web] 0\n[web] prepared\n" in log
    for refused in ("mount: ", "mknod: ", "touch: "):
        assert f"[web] {refused}" in log


async def test_a_kernel_without_ipv6_has_services_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine says of a setting that is not there what it says of all of IPv6."""
    monkeypatch.setattr(container, "NO_IPV6", "net.ipv6.conf.absent.disable_ipv6")
    # a service may have the name that this node gives to a container of its own
    services: list[dict[str, object]] = [
        {"name": "keeper", **WEB},
        {"command": list(SERVER), "ready": {"port": 8000}},
    ]
    compared, log = await room.run_files(
        {".pbft-ci.yml": serving(room.image, ASK, "exit 3", services=services)}
    )
    assert compared.exit_code == 3, log


async def test_an_image_without_a_shell_fails_as_it_does_without_services(
    room: Room, docker_engine: docker.DockerClient
) -> None:
    name = f"pbft-ci-example/empty:{secrets.token_hex(8)}"
    docker_engine.images.build(
        fileobj=io.BytesIO(f"FROM {room.image}\nRUN rm /bin/sh\n".encode()), tag=name, rm=True
    )
    try:
        room.local_images.append(name)
        services = [{"image": room.image, "command": list(SERVER)}]
        text = serving(name, "true", services=services)
        compared, log = await room.run_files({".pbft-ci.yml": text})
    finally:
        docker_engine.images.remove(name)
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 127)
    assert "no shell" in log


HOSTILE = {
    "floods its log": f"while :; do echo {'x' * 50}; done",
    "forks": "; ".join(FORK_BOMB).replace("|| exit 4", "|| true") + "; exec sleep 600",
    "fills its memory": "cat /dev/zero >/tmp/x; while :; do sleep 1; done",
    "takes the step's port": "exec nc -ll -p 9000 -e echo mine",
    "ignores its end": "trap '' TERM INT HUP; while :; do sleep 1; done",
    "looks for a way out": (
        "for host in 169.254.169.254 172.17.0.1 10.0.0.1 1.1.1.1; do"
        " nc -w 1 $host 80 </dev/null && echo REACHED $host; done;"
        " nslookup example.org && echo REACHED;"
        " wget -T 1 -O - http://169.254.169.254/ && echo REACHED;"
        " ls /sys/class/net | grep -v lo && echo REACHED; find / -xdev -type s && sleep 600"
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
async def test_a_hostile_service_harms_its_own_build_at_most(room: Room, attack: str) -> None:
    """The step runs to its end beside it, its output is in the log, and nothing is left."""
    services: list[dict[str, object]] = [
        {"name": "hostile", "command": shell(HOSTILE[attack])},
        {"command": list(SERVER), "ready": {"port": 8000}},
    ]
    text = serving(
        room.image,
        ASK,
        "sleep 1; nc -l -p 9000 -w 1 </dev/null || echo taken",
        "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done",
        "exit 3",
        services=services,
        resources={"pids": 64},
    )
    compared, log = await room.run_files(
        {".pbft-ci.yml": text}, {"log_bytes_max": 64 * 1024, "memory_bytes": 96 * 2**20}
    )
    assert compared.exit_code == 3, log
    assert "\nline 0\n" in log
    assert "\nline 99\n" in log
    assert "REACHED" not in log.replace("echo REACHED", "")
    if attack == "floods its log":
        assert "[hostile] (what it says from here on is left out)" in log
    if attack == "takes the step's port":
        assert "\ntaken\n" in log
