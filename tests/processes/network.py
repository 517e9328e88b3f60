"""A whole network on this machine: real node processes and a real gateway, for tests and chaos.

The rule: every process is started here, held by its handle, and ended by that handle alone.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from ci.ledger import VerdictEntry, decode_entry, genesis_head, verify_chain
from common.logs import STDERR_VARIABLE
from pbft.ports import Entry
from scripts.base_image import EXAMPLE_IMAGE
from scripts.configuration import write_configuration
from scripts.example_repository import write_repository
from scripts.free_ports import free_ports
from scripts.processes import answers
from tests import forked
from tests.forked import Process

CLIENT = "client"
READY_SECONDS = 60.0
VERDICT_SECONDS = 90.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
ANSWER_SECONDS = 20.0
LAST_BYTES = 6000
LEDGER_PAGE = 500

# A proxy of the caller's environment must not be asked for an address of this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class NoAnswer(Exception):
    """The other end is not there, or went away while it was asked."""


def ask(url: str, body: bytes | None = None, seconds: float = ANSWER_SECONDS) -> Answer:
    """GET, or POST where there is a body. Raises NoAnswer."""
    request = urllib.request.Request(url, data=body)
    try:
        with _opener.open(request, timeout=seconds) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
    except (OSError, urllib.error.URLError, ValueError, EOFError) as error:
        raise NoAnswer(f"{url}: {error}") from error
    except Exception as error:
        # http.client has exceptions of its own for a connection that ends half way
        if type(error).__module__ == "http.client":
            raise NoAnswer(f"{url}: {error!r}") from error
        raise


def pipeline(
    *commands: str, image: str = EXAMPLE_IMAGE, timeout_seconds: int | None = None
) -> dict[str, str]:
    """The files of a branch whose pipeline runs these commands."""
    settings: dict[str, object] = {"image": image, "commands": list(commands)}
    if timeout_seconds is not None:
        settings["timeout_seconds"] = timeout_seconds
    return {".pbft-ci.yml": yaml.safe_dump(settings, sort_keys=False)}


class Network:
    """Nodes node0 ... and a client in one folder. Use it as a context manager, or `close` it."""

    living: "list[Network]" = []  # noqa: RUF012 - which ones a failing test should tell about

    def __init__(
        self,
        folder: Path,
        branches: Mapping[str, Mapping[str, str]],
        *,
        replicas: int = 4,
        executor: str = "process",
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        is_captured: bool = False,
        is_forked: bool = True,
    ) -> None:
        """Write configuration, keys and repository; nothing is started yet.

        branches: name -> path -> text, see `pipeline`. overrides: as write_configuration takes
        them. is_captured: each node appends what it sends to `capture_file(name)`. is_forked:
        processes are forked where their imports are done; else each is a `python -m`.
        """
        self.folder = folder
        self.repository = folder / "repository.git"
        self.commits = write_repository(self.repository, branches)
        self.node_names = tuple(f"node{index}" for index in range(replicas))
        *ports, client_port = free_ports(replicas + 1)
        changes = {name: dict(value) for name, value in (overrides or {}).items()}
        if is_captured:
            for name in self.node_names:
                capture = {"capture_file": str(self.capture_file(name))}
                changes[name] = {**changes.get(name, {}), **capture}
        self.configuration = write_configuration(
            folder / "config",
            replicas=replicas,
            repositories=[self.repository],
            run_folder=folder / "run",
            log_folder=folder / "log",
            ports=ports,
            client_port=client_port,
            executor=executor,
            overrides=changes,
        )
        self.processes: dict[str, Process] = {}
        self._is_forked = is_forked
        self.gateway_url = self.configuration.client.listen.url
        self._listen = {config.name: config.listen for config in self.configuration.processes}
        (folder / "output").mkdir()
        Network.living.append(self)

    # --- where things are -----------------------------------------------------------------------

    def config_file(self, name: str) -> Path:
        """The configuration of a node or the client."""
        return self.folder / "config" / f"{name}.yml"

    def capture_file(self, name: str) -> Path:
        """What a node sent, where the network is captured."""
        return self.folder / "capture" / f"{name}.capture"

    def data_directory(self, name: str) -> Path:
        """What a node or the client has on disk."""
        return self.folder / "run" / "data" / name

    @property
    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl."""
        file = self.configuration.client.results_file
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

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

    # --- processes ------------------------------------------------------------------------------

    def start(self, *names: str, ready_seconds: float = READY_SECONDS) -> None:
        """Start these (all that do not run, by default) and wait until they answer."""
        wanted = names or tuple(
            name for name in (*self.node_names, CLIENT) if not self.is_running(name)
        )
        for name in wanted:
            self.spawn(name)
        self.wait_until_ready(wanted, ready_seconds)

    def spawn(self, name: str) -> None:
        """Start one and do not wait."""
        assert not self.is_running(name), f"{name} runs already"
        start = forked.start if self._is_forked else forked.start_python
        with self._output_file(name).open("ab") as output, open(os.devnull) as nothing:
            self.processes[name] = start(
                self.command(name),
                (nothing, output, output),
                {**os.environ, STDERR_VARIABLE: "no"},
            )

    def wait_until_ready(self, names: Iterable[str], seconds: float = READY_SECONDS) -> None:
        """Return when all of these answer."""
        waiting = set(names)

        def all_answer() -> bool:
            waiting.difference_update({n for n in waiting if answers(self._listen[n])})
            return not waiting

        self.wait_until(all_answer, f"an answer of {', '.join(sorted(waiting))}", seconds)

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
        """Ask it to end; its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(STOP_SECONDS)

    def close(self) -> None:
        """End everything that was started here and still runs."""
        with contextlib.suppress(ValueError):
            Network.living.remove(self)
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
        answer = ask(f"{self.gateway_url}/webHook", json.dumps({"branch": branch, **more}).encode())
        assert answer.status == 202, answer
        return str(answer.json()["build"])

    def build(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>."""
        answer = ask(f"{self.gateway_url}/api/v1/builds/{build}")
        assert answer.status == 200, answer
        value: dict[str, Any] = answer.json()
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

    # --- the nodes ------------------------------------------------------------------------------

    def node(self, name: str, path: str) -> Answer:
        """GET a path of a node. Raises NoAnswer."""
        return ask(f"{self._listen[name].url}{path}")

    def status(self, name: str) -> dict[str, Any]:
        """GET /pbft/status."""
        value: dict[str, Any] = self.node(name, "/pbft/status").json()
        return value

    def ledger(self, name: str) -> list[Entry]:
        """The whole ledger of a node."""
        entries: list[Entry] = []
        while True:
            first = len(entries) + 1
            page = self.node(name, f"/ledger?from={first}&limit={LEDGER_PAGE}").json()
            entries.extend(
                Entry(row["index"], base64.b64decode(row["body"]), bytes.fromhex(row["head"]))
                for row in page["entries"]
            )
            if not page["entries"] or len(entries) >= page["index"]:
                return entries

    def settle(
        self,
        names: Sequence[str] | None = None,
        *,
        are_builds_closed: bool = True,
        seconds: float = VERDICT_SECONDS,
    ) -> list[Entry]:
        """Wait until these nodes stand at one place with nothing left to do, and compare them.

        Gives the ledger, which is equal byte for byte on all of them and whose chain holds.
        are_builds_closed: wait for every replica's ballot too, so not where one is down.
        """
        asked = names or self.node_names
        places: dict[str, tuple[int, int, str]] = {}

        def is_settled() -> bool:
            for name in asked:
                status = self.status(name)
                if status["pending_requests"] or (are_builds_closed and status["open_builds"]):
                    return False
                if status["ledger_missing"]:
                    return False  # after a state transfer the entries come a little later
                places[name] = (
                    status["sequence"],
                    status["ledger_index"],
                    status["ledger_head"],
                )
            return len(set(places.values())) == 1

        self.wait_until(is_settled, lambda: f"one state on all: {places}", seconds)
        ledgers = {name: self.ledger(name) for name in asked}
        first = ledgers[asked[0]]
        for name, ledger in ledgers.items():
            different = next((a.index for a, b in zip(first, ledger, strict=False) if a != b), None)
            assert ledger == first, f"{name} and {asked[0]} differ from entry {different} on"
        cluster_id = bytes.fromhex(self.status(asked[0])["cluster"])
        assert verify_chain(first, genesis_head(cluster_id)) is None
        return first

    # --- waiting, and what to say when it was in vain --------------------------------------------

    def wait_until(
        self, condition: Callable[[], bool], what: str | Callable[[], str], seconds: float
    ) -> None:
        """Return once the condition holds; an answer that does not come counts as not yet.

        Raises AssertionError with the last words of all processes: after `seconds`, or as soon
        as a process has ended by itself.
        """
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(NoAnswer):
                if condition():
                    return
            for name, process in self.processes.items():
                code = process.poll()
                assert code is None, f"{name} ended with exit code {code}\n{self.last_words()}"
            told = what if isinstance(what, str) else what()
            assert time.monotonic() < end, (
                f"waited {seconds:g} s in vain for {told}\n{self.last_words()}"
            )
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """The ends of all logs, and of what went beside them."""
        parts = []
        for name in (*self.node_names, CLIENT):
            for file in (self.folder / "log" / f"{name}.log", self._output_file(name)):
                if text := _tail(file):
                    parts.append(f"--- the end of {file}\n{text}")
        return "\n".join(parts)

    def _output_file(self, name: str) -> Path:
        return self.folder / "output" / f"{name}.txt"


def verdict_entries(ledger: Iterable[Entry]) -> list[VerdictEntry]:
    """The verdicts in a ledger, in its order."""
    decoded = [decode_entry(entry.body) for entry in ledger]
    return [entry for entry in decoded if isinstance(entry, VerdictEntry)]


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - LAST_BYTES))
            return stream.read(LAST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""
