"""Steps that name their hosts, in real containers: what they reach, and what they do not."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from ci.operations import Abstain, BuildResult, Outcome
from node.egress import egress_proxy
from node.egress.egress_proxy import NoSuchHost
from node.sandboxes.containers.egress_relay import PROXY_PORT
from scripts.relay_image import ensure_relay_image
from tests.node.conftest import PATIENCE_SECONDS, Builder, Room, things_of, until

pytestmark = pytest.mark.docker

HOST = "packages.example.org"
OTHER = "others.example.org"


class Answers(BaseHTTPRequestHandler):
    """Says which host was asked for; /away leads to another one."""

    paths: ClassVar[list[str]] = []
    is_done = False

    def do_GET(self) -> None:
        self.paths.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header(
                "Location", f"http://{OTHER}:{self.headers['Host'].partition(':')[2]}/"
            )
            self.end_headers()
            return
        if self.path == "/done":
            self.path = "yes" if Answers.is_done else "no"
        body = f"{self.headers['Host'].partition(':')[0]} says {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server on this machine, which is what all names below example.org mean."""

    async def resolve(host: str) -> list[str]:
        if host == f"missing.{HOST}":
            raise NoSuchHost(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(egress_proxy, "resolve_name", resolve)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def make_builder(room: Room, **settings: object) -> Builder:
    """One that may connect with this machine's own addresses."""
    image = await asyncio.to_thread(ensure_relay_image, room.engine)
    defaults: dict[str, object] = {
        "network_hosts": ("*.example.org:1", "*"),
        "network_addresses": ("127.0.0.0/8",),
        "network_relay_image": image,
        "abstain_after_seconds": 1,
    }
    return await room.make_builder(room.make_config(room.repository.url, **(defaults | settings)))


def naming(image: str, hosts: list[str], *commands: str) -> str:
    return json.dumps({"image": image, "network": hosts, "commands": commands})


def fails(command: str) -> str:
    return f"if {command}; then exit 9; fi"


async def test_a_step_reaches_the_hosts_that_it_names_and_no_others(room: Room, port: int) -> None:
    url = f"http://{HOST}:{port}"
    tunnel = (
        f"printf 'CONNECT {HOST}:{port} HTTP/1.1\\r\\n\\r\\n'; sleep 1;"
        " printf 'GET /tunnel HTTP/1.0\\r\\nHost: any\\r\\n\\r\\n'; sleep 1"
    )
    text = json.dumps(
        {
            "image": room.image,
            "services": [
                {
                    "name": "web",
                    "image": room.image,
                    "command": ["nc", "-ll", "-p", "8000", "-e", "echo", "heard"],
                    "ready": {"port": 8000},
                }
            ],
            "steps": [
                {
                    "name": "named",
                    "network": [f"{HOST}:{port}"],
                    "commands": [
                        f'test "$(wget -q -O - {url}/file)" = "{HOST} says /file"',
                        f"({tunnel}) | nc 127.0.0.1 {PROXY_PORT} | grep 'any says /tunnel'",
                        fails(f"wget -O - http://{OTHER}:{port}/"),
                        fails(f"wget -O - {url}/away"),
                        fails(f"wget -O - http://127.0.0.1:{port}/"),
                        # past the proxy there is nothing
                        fails(f"http_proxy= wget -T 2 -O - http://192.31.196.2:{port}/"),
                        'test "$(ls /sys/class/net)" = lo',
                        'test "$(nc -w 9 web 8000 </dev/null)" = heard',
                        'test "$NO_PROXY" = localhost,127.0.0.1,::1,web',
                        'test "$HTTPS_PROXY" = "$http_proxy"',
                    ],
                },
                {
                    "name": "offline",
                    "commands": [fails(f"nc -w 2 127.0.0.1 {PROXY_PORT} </dev/null")],
                },
            ],
        }
    )
    builder = await make_builder(room, network_hosts=(f"*.example.org:{port}",))
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    finding = await builder.find(order)
    log = builder.log(order)
    assert finding.compared.outcome is Outcome.PASSED, log
    told = [line for line in log.split("\n") if "network: " in line]
    assert f"[pbft-ci] network: {HOST}:{port}: 3 connections, " in told[0], log
    refused = f"[pbft-ci] network: refused: {OTHER}:{port} is not among the hosts of this step"
    assert any(line.startswith(refused) and line.endswith("(2 times)") for line in told), log
    assert f"refused: 127.0.0.1:{port} is not the full name of a host" in log
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)


@pytest.mark.parametrize(
    ("settings", "command", "reason"),
    [
        (
            {"network_hosts": ("pypi.org",)},
            "false",
            f"did not pass without it, and this operator does not allow {HOST}:PORT",
        ),
        ({"network_relay_image": "busybox"}, "true", "network_relay_image"),
        ({"network_addresses": ()}, "wget -O - $URL", "which is not public"),
        ({}, "wget -O - $URL", f"{HOST}:PORT is not reached"),
    ],
)
async def test_what_an_operator_or_a_machine_decides_is_no_finding(
    room: Room, port: int, settings: dict[str, object], command: str, reason: str
) -> None:
    if not settings:
        # nobody listens there
        port = 1
    if "network_relay_image" in settings:
        settings = {"network_relay_image": room.image}
    url = f"http://{HOST}:{port}/"
    text = naming(room.image, [f"{HOST}:{port}"], command.replace("$URL", url))
    builder = await make_builder(room, **({"network_hosts": ("*:1", f"*:{port}")} | settings))
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    ballot = await asyncio.wait_for(builder.build(order), PATIENCE_SECONDS)
    assert isinstance(ballot, Abstain), builder.log(order)
    assert reason.replace("PORT", str(port)) in ballot.reason
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)


async def test_a_failure_of_the_steps_own_is_a_finding(room: Room, port: int) -> None:
    """Also after a host that does not exist, and one that is not listed."""
    text = naming(
        room.image,
        ["*.example.org:80"],
        fails(f"wget -O - http://missing.{HOST}/"),
        fails("wget -O - http://evil.example.com/"),
        "exit 7",
    )
    builder = await make_builder(room)
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    finding = await builder.find(order)
    assert finding.compared.exit_code == 7, builder.log(order)
    assert "there is no host of this name" in builder.log(order)


async def test_another_build_cannot_use_the_proxy(room: Room, port: int) -> None:
    """Both run at once; the second one names another host, and knows where the first's proxy is."""
    url = f"http://{HOST}:{port}"
    first = naming(
        room.image,
        [f"{HOST}:{port}"],
        f"until wget -q -O - {url}/done | grep yes; do sleep 0.2; done",
    )
    second = naming(
        room.image,
        [f"{OTHER}:{port}"],
        f'test "$(wget -q -O - http://{OTHER}:{port}/own)" = "{OTHER} says /own"',
        fails(f"wget -O - {url}/file"),
    )
    third = json.dumps(
        {
            "image": room.image,
            "commands": [fails(f"nc -w 2 127.0.0.1 {PROXY_PORT} </dev/null")],
        }
    )
    builder = await make_builder(room, network_hosts=(f"*.example.org:{port}",), builds_at_once=2)
    Answers.is_done = False
    orders = [
        builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
        for text in (first, second, third)
    ]
    running = asyncio.create_task(builder.find(orders[0]))
    try:
        await until(lambda: "/done" in Answers.paths)
        for order in orders[1:]:
            finding = await builder.runner.build(order)
            assert isinstance(finding, BuildResult)
            assert finding.compared.outcome is Outcome.PASSED, builder.log(order)
    finally:
        Answers.is_done = True
        finding = await running
    assert finding.compared.outcome is Outcome.PASSED, builder.log(orders[0])


async def test_run_of_a_dockerfile_reaches_the_hosts_that_it_names(room: Room, port: int) -> None:
    url = f"http://{HOST}:{port}"
    lines = (
        f"# pbft-ci network: {HOST}:{port}",
        f"FROM {room.image}",
        f"RUN wget -O /file {url}/file && {fails(f'wget -O - http://{OTHER}:{port}/')}",
        'RUN test "$(ls /sys/class/net)" = lo',
        # the image's own command has no network, and no variable of the proxy is left in it
        f"CMD test -s /file && {fails(f'nc -w 2 127.0.0.1 {PROXY_PORT} </dev/null')}"
        ' && test -z "$http_proxy$HTTP_PROXY"',
    )
    builder = await make_builder(room, network_hosts=(f"*.example.org:{port}",))
    order = builder.order(
        room.repository.url, room.repository.commit({"Dockerfile": "\n".join(lines)})
    )
    finding = await builder.find(order)
    log = builder.log(order)
    assert finding.compared.outcome is Outcome.PASSED, log
    assert f"network: {HOST}:{port}: 1 connection" in log
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)


async def test_a_dockerfile_whose_hosts_this_operator_does_not_allow(room: Room, port: int) -> None:
    text = f"# pbft-ci network: {HOST}\nFROM {room.image}\nRUN false\nCMD true\n"
    builder = await make_builder(room, network_hosts=())
    order = builder.order(room.repository.url, room.repository.commit({"Dockerfile": text}))
    ballot = await builder.build(order)
    assert isinstance(ballot, Abstain)
    assert f"this operator does not allow {HOST}" in ballot.reason
