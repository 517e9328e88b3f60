"""A whole network on this machine, real nodes and a real gateway: for tests, benches and pictures.

The rule: every process is started here, held by its handle, and ended by that handle alone. All
methods block; asynchronous callers run them in a thread.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self

import msgspec
import yaml

from common.address import Address
from common.logs import STDERR_VARIABLE
from scripts.base_image import EXAMPLE_IMAGE
from scripts.configuration import HOST, Configuration, DataFolders, Ports, write_configuration
from scripts.example_repository import write_repository
from scripts.free_ports import free_ports
from scripts.processes import Process, answers, last_bytes, start_process

CLIENT = "client"
# Even a node or a client with 100,000 builds behind it answers long before.
READY_SECONDS = 120.0
VERDICT_SECONDS = 180.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05
ANSWER_SECONDS = 30.0

# A proxy of the caller's environment must not be asked for an address of this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NetworkFailed(Exception):
    """A network that was started here did not do what it should; the text says what."""


class NoAnswer(NetworkFailed):
    """The other end is not there, or went away while it was asked."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    target: str | urllib.request.Request, body: bytes | None = None, seconds: float = ANSWER_SECONDS
) -> Answer:
    """GET, or POST if there is a body. target: a URL, or a request with headers.

    Raises NoAnswer.
    """
    url = target if isinstance(target, str) else target.full_url
    try:
        with _opener.open(target, body, timeout=seconds) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        raise NoAnswer(f"{url}: {error!r}") from error


def pipeline(
    *commands: str, image: str = EXAMPLE_IMAGE, timeout_seconds: int | None = None
) -> dict[str, str]:
    """The files of a branch whose pipeline runs these commands."""
    settings: dict[str, object] = {"image": image, "commands": list(commands)}
    if timeout_seconds is not None:
        settings["timeout_seconds"] = timeout_seconds
    return {".pbft-ci.yml": yaml.safe_dump(settings, sort_keys=False)}


def start_python(
    command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
) -> Process:
    """Start a Python of its own. command: what comes after `python`; else as start_process."""
    return start_process((sys.executable, *command), files, environment)


class Programs(msgspec.Struct, frozen=True):
    """Which programs a network runs, and in what form they take their configuration."""

    # as start_python
    start: Callable[..., Process] = start_python
    # as the function of that name
    write_configuration: Callable[..., Configuration] = write_configuration


PROGRAMS = Programs()


class RunningNetwork(ABC):
    """Nodes and a gateway by name: their processes, and what they answer. `close` it."""

    def __init__(self, folder: Path, listen: Mapping[str, Address], gateway: str) -> None:
        """listen: where each answers HTTP without TLS to this process. gateway: which it is."""
        self.folder = folder
        self.node_names = tuple(name for name in listen if name != gateway)
        self.gateway_name = gateway
        self.gateway_url = listen[gateway].url
        self.processes: dict[str, Process] = {}
        self._listen = dict(listen)
        self._is_closed = False
        (folder / "output").mkdir()

    # --- what a network says of itself ----------------------------------------------------------

    @property
    @abstractmethod
    def results_file(self) -> Path:
        """Where the gateway writes its results."""

    @abstractmethod
    def log_file(self, name: str) -> Path:
        """The log of a node or the gateway."""

    @abstractmethod
    def start_program(self, name: str, files: Sequence[IO[Any]]) -> Process:
        """Start a node or the gateway. files: its standard input, output and error."""

    @property
    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl that are whole by now: it is written behind the verdicts."""
        file = self.results_file
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def output_file(self, name: str) -> Path:
        """What a node or the gateway wrote beside its log."""
        return self.folder / "output" / f"{name}.txt"

    # --- processes ------------------------------------------------------------------------------

    def start(self, *names: str, ready_seconds: float = READY_SECONDS) -> None:
        """Start these (all that do not run, by default) and wait until they answer."""
        wanted = names or tuple(name for name in self._listen if not self.is_running(name))
        for name in wanted:
            self.spawn(name)
        self.wait_until_ready(wanted, ready_seconds)

    def spawn(self, name: str) -> None:
        """Start one and do not wait."""
        assert not self.is_running(name), f"{name} runs already"
        self._refuse_if_closed()
        with self.output_file(name).open("ab") as output, open(os.devnull) as nothing:
            self.processes[name] = self.start_program(name, (nothing, output, output))

    def wait_until_ready(self, names: Iterable[str], seconds: float = READY_SECONDS) -> None:
        """Return when all of these answer."""
        waiting = set(names)

        def all_answer() -> bool:
            waiting.difference_update({n for n in waiting if answers(self._listen[n])})
            return not waiting

        self.wait_until(all_answer, lambda: f"an answer of {', '.join(sorted(waiting))}", seconds)

    def is_running(self, name: str) -> bool:
        """Whether it was started here and has not ended."""
        process = self.processes.get(name)
        return process is not None and process.poll() is None

    def kill(self, name: str) -> None:
        """kill -9: it gets no chance to save anything."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(STOP_SECONDS)

    def stop(self, name: str) -> int:
        """Ask it to end; its exit code. Raises subprocess.TimeoutExpired."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(STOP_SECONDS)

    def close(self) -> None:
        """End everything that was started here and still runs."""
        self._is_closed = True
        processes, self.processes = self.processes, {}
        for process in processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self.last_words())
        self.close()

    # --- the gateway ----------------------------------------------------------------------------

    def post(self, branch: str, **more: str) -> str:
        """POST /webHook as the seed's curl does; the build's id."""
        body = json.dumps({"branch": branch, **more}).encode()
        return str(_expect(202, f"{self.gateway_url}/webHook", body)["build"])

    def rebuild(self, build: str, *, is_cold: bool = False) -> str:
        """POST /api/v1/builds/<id>/rebuild; the new build's id. is_cold: without caches."""
        url = f"{self.gateway_url}/api/v1/builds/{build}/rebuild"
        return str(_expect(202, url, json.dumps({"cold": is_cold}).encode())["build"])

    def build(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>."""
        value: dict[str, Any] = _expect(200, f"{self.gateway_url}/api/v1/builds/{build}")
        return value

    def verdict(self, build: str, seconds: float = VERDICT_SECONDS) -> dict[str, Any]:
        """The build once it is decided."""
        return self.verdicts([build], seconds)[build]

    def verdicts(
        self, builds: Sequence[str], seconds: float = VERDICT_SECONDS
    ) -> dict[str, dict[str, Any]]:
        """The builds by id, once all are decided."""
        decided: dict[str, dict[str, Any]] = {}

        def all_decided() -> bool:
            for build in builds:
                if build not in decided:
                    view = self.build(build)
                    if view["status"] != "decided":
                        return False
                    decided[build] = view
            return True

        self.wait_until(all_decided, lambda: f"{len(builds) - len(decided)} verdicts", seconds)
        return decided

    def complete(
        self, build: str, ballots: int = 4, seconds: float = VERDICT_SECONDS
    ) -> dict[str, Any]:
        """The build once it is decided and the gateway has that many ballots and their logs."""
        view: dict[str, Any] = {}

        def is_complete() -> bool:
            view.update(self.build(build))
            findings = [b["replica"] for b in view["ballots"] if b["abstains"] is None]
            return (
                view["status"] == "decided"
                and len(view["ballots"]) >= ballots
                and set(findings) <= set(view["logs"])
            )

        self.wait_until(is_complete, lambda: f"{ballots} ballots and logs: {view}", seconds)
        return view

    def results_of(self, builds: Iterable[str]) -> list[dict[str, Any]]:
        """The lines of results.jsonl, once each of these builds has one."""
        wanted = set(builds)

        def missing() -> set[str]:
            return wanted - {line["id"] for line in self.results}

        self.wait_until(
            lambda: not missing(), lambda: f"results of {sorted(missing())}", VERDICT_SECONDS
        )
        return self.results

    # --- the nodes ------------------------------------------------------------------------------

    def url(self, name: str) -> str:
        """Where a node or the gateway answers."""
        return self._listen[name].url

    def node(self, name: str, path: str) -> Answer:
        """GET a path of a node. Raises NoAnswer."""
        return ask(f"{self.url(name)}{path}")

    def status(self, name: str) -> dict[str, Any]:
        """GET /pbft/status."""
        value: dict[str, Any] = _expect(200, f"{self._listen[name].url}/pbft/status")
        return value

    # --- waiting, and what to say when it was in vain --------------------------------------------

    def wait_until(
        self, condition: Callable[[], bool], what: str | Callable[[], str], seconds: float
    ) -> None:
        """Return once the condition holds; an answer that does not come counts as not yet.

        Raises NetworkFailed: after `seconds`, or as soon as a process has ended by itself.
        """
        began_at = time.monotonic()
        while True:
            with contextlib.suppress(NoAnswer):
                if condition():
                    return
            self._refuse_if_closed()
            for name, process in self.processes.items():
                if (code := process.poll()) is not None:
                    raise NetworkFailed(f"{name} ended with exit code {code}")
            waited = time.monotonic() - began_at
            if waited > seconds:
                told = what if isinstance(what, str) else what()
                raise NetworkFailed(f"waited {seconds:g} s in vain for {told}")
            time.sleep(self.pause_seconds(waited))

    def pause_seconds(self, waited: float) -> float:
        """How long to wait until the next look: always as long, for benches measure what comes."""
        return POLL_SECONDS

    def last_words(self) -> str:
        """The ends of all logs, and of what went beside them."""
        parts = []
        for name in self._listen:
            for file in (self.log_file(name), self.output_file(name)):
                if text := last_bytes(file).strip():
                    parts.append(f"--- the end of {file}\n{text}")
        return "\n".join(parts)

    def _refuse_if_closed(self) -> None:
        """A thread must not go on with a network that another one has closed."""
        if self._is_closed:
            raise NetworkFailed("the network is closed")


class Network(RunningNetwork):
    """Nodes node0 ... and a client in one folder. Use it as a context manager, or `close` it."""

    # of a network that is not given any
    programs: ClassVar[Programs] = PROGRAMS

    def __init__(
        self,
        folder: Path,
        branches: Mapping[str, Mapping[str, str]] | Path,
        *,
        replicas: int = 4,
        executor: str = "process",
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        programs: Programs | None = None,
    ) -> None:
        """Write configuration, keys and repository; nothing is started yet.

        branches: name -> path -> text, see `pipeline`, for a repository in `folder`; or the path of
        one that is there already. overrides: as write_configuration takes them; if they have
        members speak TLS, each node has a second address, for this machine.
        """
        programs = programs or self.programs
        folder = folder.absolute()
        self.commits: dict[str, str] = {}
        if isinstance(branches, Path):
            self.repository = branches
        else:
            self.repository = folder / "repository.git"
            self.commits = write_repository(self.repository, branches)
        changes = {file: dict(settings) for file, settings in (overrides or {}).items()}
        has_tls = changes.get("cluster", {}).get("tls") == "required"
        client_port, *ports = free_ports(1 + replicas * (2 if has_tls else 1))
        for index, port in enumerate(ports[replicas:]):
            changes.setdefault(f"node{index}", {})["local_listen"] = f"{HOST}:{port}"
        self.configuration = programs.write_configuration(
            folder / "config",
            [self.repository],
            DataFolders.below(folder),
            ports=Ports(ports[:replicas], client_port),
            executor=executor,
            overrides=changes,
        )
        gateway = self.configuration.client
        listen = {
            gateway.name: gateway.listen,
            **{node.name: node.plain_listen for node in self.configuration.nodes},
        }
        super().__init__(folder, listen, gateway.name)
        self._environment = {**os.environ, STDERR_VARIABLE: "no"}
        self._programs = programs

    # --- where things are -----------------------------------------------------------------------

    def config_file(self, name: str) -> Path:
        """The configuration of a node or the client."""
        return self.folder / "config" / f"{name}.yml"

    def key_file(self, name: str) -> Path:
        """The private key of a member."""
        return self.folder / "run" / "keys" / f"{name}.private.pem"

    def data_directory(self, name: str) -> Path:
        """What a node or the client has on disk."""
        return self.folder / "run" / "data" / name

    def command(self, name: str) -> list[str]:
        """How a node or the client is started: what comes after `python`."""
        module = "client" if name == CLIENT else "node"
        return ["-m", module, "--config", str(self.config_file(name))]

    def rewrite(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the configuration file of a node, the client, or the cluster."""
        file = self.config_file(name)
        settings = yaml.safe_load(file.read_text())
        change(settings)
        file.write_text(yaml.safe_dump(settings, sort_keys=False))

    @property
    def results_file(self) -> Path:
        """Where the client writes its results."""
        return self.configuration.client.results_file

    def log_file(self, name: str) -> Path:
        """The log of a node or the client."""
        return self.folder / "log" / f"{name}.log"

    def start_program(self, name: str, files: Sequence[IO[Any]]) -> Process:
        """Start a node or the client. files: its standard input, output and error."""
        return self._programs.start(self.command(name), files, self._environment)


def _expect(status: int, url: str, body: bytes | None = None) -> Any:
    """The JSON of an answer that has this status. Raises NoAnswer, NetworkFailed."""
    answer = ask(url, body)
    if answer.status != status:
        raise NetworkFailed(f"{url}: {answer.status} {answer.body[:500]!r}")
    return answer.json()
