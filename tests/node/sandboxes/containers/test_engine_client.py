"""An engine that never answers: whatever is asked of it ends by itself, or is broken off."""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker.errors
import docker.tls
import pytest
import requests

from ci.operations import Abstain, BuildResult, Outcome
from common.configuration.config import NodeConfig
from node.sandboxes.containers.docker_engine import DockerEngine
from node.sandboxes.containers.engine_client import Connections, EngineClient
from node.work.threads import Stop, Stopped
from tests.node.conftest import (
    PATIENCE_SECONDS,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
    until,
)
from tests.node.git_servers import SshServer, self_signed
from tests.node.silent_engine import SilentEngine

# a digest that was pulled before: no question to the registry comes before the pull
IMAGE = f"evil.example/x@sha256:{'ab' * 32}"
PULL = "/images/create"

EngineMaker = Callable[..., SilentEngine]


@pytest.fixture
def make_config(make_config: ConfigMaker) -> ConfigMaker:
    """A node that takes images from there, and has pulled this one before."""

    def make(*urls: str, **settings: Any) -> NodeConfig:
        config = make_config(*urls, images_from=("evil.example",), **settings)
        config.data_directory.mkdir()
        record = {"reference": IMAGE, "image_id": "i", "image_bytes": 1, "used_at": 1.0}
        (config.data_directory / "pulled-images.json").write_text(json.dumps([record]))
        return config

    return make


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[EngineMaker]:
    """An engine that is silent about the paths that end like these."""
    made: list[SilentEngine] = []

    def make(*silent: str) -> SilentEngine:
        made.append(SilentEngine(tmp_path / f"engine{len(made)}.sock", *silent))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


async def test_a_registry_that_never_answers_is_an_infrastructure_error(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    make_engine: EngineMaker,
) -> None:
    engine = make_engine(PULL)
    config = make_config(
        repository.url, docker_host=engine.host, pull_timeout_seconds=3, abstain_after_seconds=1
    )
    builder = await make_builder(config)
    order = builder.order(
        repository.url, repository.commit({".pbft-ci.yml": pipeline(IMAGE, "true")})
    )
    ballot = await asyncio.wait_for(builder.build(order), PATIENCE_SECONDS)
    assert isinstance(ballot, Abstain)
    assert "was not pulled within 3 s" in ballot.reason
    # the engine is told that nobody waits for it any more
    await until(lambda: engine.held == 0)
    assert engine.held_ever >= 2


async def test_a_build_that_waits_for_a_silent_registry_can_be_cancelled(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    make_engine: EngineMaker,
) -> None:
    engine = make_engine(PULL)
    builder = await make_builder(make_config(repository.url, docker_host=engine.host))
    order = builder.order(
        repository.url, repository.commit({".pbft-ci.yml": pipeline(IMAGE, "true")})
    )
    building = asyncio.create_task(builder.runner.build(order))
    await until(lambda: engine.held == 1)
    building.cancel()
    done, _ = await asyncio.wait({building}, timeout=PATIENCE_SECONDS)
    assert done
    assert building.cancelled()


@pytest.mark.parametrize(
    ("silent", "ask"),
    [
        (PULL, lambda engine, stop: engine.pull(IMAGE, {}, 600, stop=stop)),
        ("/json", lambda engine, stop: engine.registry_digest("evil.example/x:y", {}, stop)),
    ],
)
def test_a_stop_ends_a_question_whose_answer_has_not_begun(
    make_engine: EngineMaker, silent: str, ask: Callable[[DockerEngine, Stop], object]
) -> None:
    silent_engine = make_engine(silent)
    stop = Stop()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            ask(DockerEngine(silent_engine.host, 2), stop)
        except BaseException as error:  # noqa: BLE001 (looked at below)
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    _wait_for(lambda: silent_engine.held == 1)
    stop.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert isinstance(ended[0], Stopped | OSError)


@contextmanager
def engine_over_ssh(
    socket_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The engine at that socket, through a real sshd; the ssh:// address of it."""
    ssh = shutil.which("ssh")
    if ssh is None or shutil.which("docker") is None:
        pytest.skip("ssh, and the engine's command line at its other end, are needed")
    # dial-stdio reads this variable, as any command of the engine's
    with SshServer(folder / "sshd", SetEnv=f"DOCKER_HOST={socket_url}") as server:
        # as ~/.ssh would have it, which ssh finds by the user's number alone
        (folder / "bin").mkdir()
        program = folder / "bin" / "ssh"
        files = f"-oUserKnownHostsFile={server.known_hosts_file} -i {server.user_key_file}"
        program.write_text(f'#!/bin/sh\nexec {ssh} -F /dev/null {files} "$@"\n')
        program.chmod(0o700)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        yield server.url(Path())[:-1]


@pytest.fixture(params=["unix", "tcp", "tls", "ssh"])
def reached(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SilentEngine, EngineClient]]:
    """An engine that is silent about pulls, and a patient client, in each way to reach one."""
    # else they count instead of what the client is told
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    context: ssl.SSLContext | None = None
    tls: docker.tls.TLSConfig | bool = False
    if request.param == "tls":
        certificate, key = self_signed(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        tls = docker.tls.TLSConfig(ca_cert=str(certificate), verify=True)
    path = tmp_path / "engine.sock" if request.param in ("unix", "ssh") else None
    with ExitStack() as stack:
        engine = SilentEngine(path, PULL, context=context)
        stack.callback(engine.close)
        host = engine.host
        if request.param == "ssh":
            host = stack.enter_context(engine_over_ssh(host, tmp_path, monkeypatch))
        client = EngineClient(base_url=host, timeout=600, tls=tls)
        stack.callback(client.close)
        yield engine, client


@pytest.mark.parametrize("end", [Connections.break_off, Connections.end_requests])
def test_a_question_that_waits_for_its_header_is_ended(
    reached: tuple[SilentEngine, EngineClient], end: Callable[[Connections], None]
) -> None:
    """Whichever way the engine is reached; it sees that nobody asks any more."""
    engine, client = reached
    connections = Connections(client)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            client.pull(IMAGE)
        except requests.ConnectionError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    _wait_for(lambda: engine.held == 1)
    end(connections)
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert ended
    _wait_for(lambda: engine.held == 0)


def test_a_connection_that_is_made_too_late_is_ended(
    reached: tuple[SilentEngine, EngineClient],
) -> None:
    _, client = reached
    Connections(client).break_off()
    with pytest.raises(requests.ConnectionError):
        client.pull(IMAGE)


def test_an_engine_with_tls_wants_the_certificate_of_the_configured_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    certificate, key = self_signed(tmp_path)
    certificate.with_name("cert.pem").write_bytes(certificate.read_bytes())
    key.rename(tmp_path / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    silent_engine = SilentEngine(None, context=context)
    host = silent_engine.host.replace("https://", "tcp://")
    with contextlib.closing(DockerEngine(host, 1, tmp_path)) as engine:
        assert engine.client().images() == []
    with pytest.raises(docker.errors.DockerException):
        DockerEngine(host, 1).client()
    silent_engine.close()


@pytest.mark.docker
async def test_a_build_on_an_engine_behind_ssh(
    repository: GitRepository,
    base_image: str,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trees go in and output comes out; no program stays once the node has ended."""
    here = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    with engine_over_ssh(here, tmp_path, monkeypatch) as host:
        config = make_config(repository.url, docker_host=host)
        builder = await make_builder(config)
        files: dict[str, str | bytes] = {
            "text": "a line\n",
            ".pbft-ci.yml": pipeline(base_image, "cat text && exit 7"),
        }
        ballot = await builder.build(builder.order(repository.url, repository.commit(files)))
        assert isinstance(ballot, BuildResult)
        assert (ballot.compared.outcome, ballot.compared.exit_code) == (Outcome.FAILED, 7)
        await builder.runner.close()
        await until(lambda: not programs_of(host))


def programs_of(host: str) -> list[str]:
    """The programs ssh of this process that lead to that address, also those that are zombies."""
    port = host.rpartition(":")[2]
    command = ("ps", "--ppid", str(os.getpid()), "-o", "args=")
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [
        line for line in listed.splitlines() if f"-p {port} " in line or "[ssh] <defunct>" in line
    ]


@pytest.mark.parametrize(
    ("silent", "ask"),
    [
        (PULL, lambda client: client.pull(IMAGE)),
        ("/attach", lambda client: client.attach_socket("c" * 64)),
        ("/events", lambda client: list(client.events(until="1.000000"))),
        ("/build", lambda client: list(client.build(fileobj=b"x", custom_context=True))),
        ("/wait", lambda client: client.wait("c" * 64)),
        ("/archive", lambda client: client.get_archive("c" * 64, "/")),
        ("/start", lambda client: client.start("c" * 64)),
    ],
)
def test_no_question_waits_for_ever(
    make_engine: EngineMaker, silent: str, ask: Callable[[EngineClient], object]
) -> None:
    """Docker's library has no limit of its own for the first four."""
    client = EngineClient(base_url=make_engine(silent).host, timeout=1)
    began_at = time.monotonic()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            ask(client)
        except (docker.errors.DockerException, requests.RequestException) as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    client.close()
    assert not thread.is_alive()
    assert isinstance(ended[0], requests.ReadTimeout)
    assert time.monotonic() - began_at >= 1


def _wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not come true in time"
        time.sleep(0.02)
