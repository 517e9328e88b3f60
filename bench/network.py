"""A whole network for a bench: real nodes and a real client, started as the scripts start them."""

import asyncio
import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.context import Context
from ci.limits import Limits, encode_limits
from common.configuration.config import ClusterConfig, NodeConfig
from pbft.genesis import Cluster
from scripts.base_image import EXAMPLE_IMAGE
from scripts.configuration import Configuration, write_configuration
from scripts.example_repository import write_repository
from scripts.free_ports import free_ports
from scripts.network import client_program, node_programs
from scripts.processes import Processes, Program

CLIENT = "client"
READY_SECONDS = 120.0
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.02
_BUILDS_HERE = "pbftci_builds_here{"

# A proxy of the caller's environment must not be asked for an address of this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BenchFailed(Exception):
    """A bench that could not be run to its end; the text says why."""


def pipeline(*commands: str, image: str = EXAMPLE_IMAGE) -> dict[str, str]:
    """The files of a branch whose pipeline runs these commands."""
    settings = {"image": image, "commands": list(commands)}
    return {".pbft-ci.yml": yaml.safe_dump(settings, sort_keys=False)}


TRIVIAL = pipeline("true")


class Network:
    """Nodes node0 ... and a client in one folder, configured and not started yet."""

    def __init__(
        self,
        folder: Path,
        *,
        branches: Mapping[str, Mapping[str, str]] | None = None,
        repository: Path | None = None,
        clients: Sequence[str] = (),
        executor: str = "process",
        replicas: int = 4,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        gateway_repository: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Write everything that a start needs.

        branches: of a repository made for it (by default `master`, with a trivial build); or
        repository: one that is there. clients: further members that may ask for `noop`, with
        keys. overrides: as write_configuration takes them. gateway_repository: more keys of the
        repository in client.yml. environment: of all processes.
        """
        self.folder = folder = folder.absolute()
        self.repository = repository or folder / "repository.git"
        self.commits: dict[str, str] = {}
        if repository is None:
            self.commits = write_repository(self.repository, branches or {"master": TRIVIAL})
        *ports, client_port = free_ports(replicas + 1)
        changes = {name: dict(value) for name, value in (overrides or {}).items()}
        if clients:
            keys = folder / "run" / "keys"
            roles = {CLIENT: ["gateway"], "operator": ["operator"]}
            changes.setdefault("cluster", {})["clients"] = [
                {
                    "name": name,
                    "public_key_file": str(keys / f"{name}.public.pem"),
                    "roles": roles.get(name, []),
                }
                for name in (*roles, *clients)
            ]
        if gateway_repository is not None:
            entry = {"url": str(self.repository), "unsigned_allowed": True, **gateway_repository}
            changes.setdefault(CLIENT, {})["repositories"] = [entry]
        self.configuration: Configuration = write_configuration(
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
        self._processes = Processes(folder / "pids", folder / "output")
        self._environment = dict(environment or {})
        self.programs: dict[str, Program] = {
            program.name: program
            for program in (
                *node_programs(self.configuration),
                client_program(self.configuration),
            )
        }

    @property
    def node_names(self) -> tuple[str, ...]:
        """The replicas, in the genesis' order."""
        return tuple(node.name for node in self.configuration.nodes)

    @property
    def nodes(self) -> tuple[NodeConfig, ...]:
        """The configuration of each node."""
        return self.configuration.nodes

    @property
    def gateway_url(self) -> str:
        """Where the client listens, without a slash at the end."""
        return self.configuration.client.listen.url

    @property
    def cluster(self) -> Cluster:
        """The genesis and what follows from it."""
        config: ClusterConfig = self.configuration.cluster
        return config.cluster(encode_limits(config.limits_as(Limits)))

    def key_file(self, name: str) -> Path:
        """The private key of a member that has no process here."""
        return self.folder / "run" / "keys" / f"{name}.private.pem"

    def data_directory(self, name: str) -> Path:
        """What a node or the client has on disk."""
        return self.folder / "run" / "data" / name

    # --- processes ------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        """Start these (all by default) and return when they answer. Raises StartFailed."""
        programs = [self.programs[name] for name in names or self.programs]
        await asyncio.to_thread(
            self._processes.start,
            programs,
            environment=self._environment,
            ready_seconds_max=READY_SECONDS,
        )

    async def stop(self, *names: str) -> None:
        """Ask these to end, and wait. Raises BenchFailed where one has to be killed."""
        lines = await asyncio.to_thread(self._processes.stop, list(names))
        if lines:
            raise BenchFailed("; ".join(lines))

    def kill(self, name: str) -> None:
        """kill -9: it gets no chance to save anything."""
        os.kill(self.pid(name), signal.SIGKILL)

    def pid(self, name: str) -> int:
        """The process of a node or the client. Raises BenchFailed where it does not run."""
        running = self._processes.running()
        if name not in running:
            raise BenchFailed(f"{name} does not run any more")
        return running[name].pid

    def close(self) -> None:
        """End everything that was started here."""
        self._processes.stop()

    def last_words(self) -> str:
        """The ends of all logs."""
        parts = []
        for file in sorted([*self.folder.glob("log/*.log"), *self.folder.glob("output/*.txt")]):
            text = file.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            if text:
                parts.append(f"--- the end of {file.name}\n{text}")
        return "\n".join(parts)

    # --- asking ---------------------------------------------------------------------------------

    async def get(self, name: str, path: str) -> Any:
        """GET a path of a node or the client, as JSON. Raises BenchFailed."""
        return await asyncio.to_thread(ask, f"{self.programs[name].listen.url}{path}")

    async def metrics(self, name: str) -> str:
        """GET /metrics of a node or the client. Raises BenchFailed."""
        url = f"{self.programs[name].listen.url}/metrics"
        return (await asyncio.to_thread(_fetch, url)).decode()

    async def post(self, branch: str) -> str:
        """POST /webHook as the seed's curl does; the build's id. Raises BenchFailed."""
        body = json.dumps({"branch": branch}).encode()
        answer = await asyncio.to_thread(ask, f"{self.gateway_url}/webHook", body)
        return str(answer["build"])

    async def build(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>."""
        found: dict[str, Any] = await self.get(CLIENT, f"/api/v1/builds/{build}")
        return found

    async def until(self, is_so: Callable[[], Any], what: str, seconds: float) -> None:
        """Wait until the awaited condition holds. Raises BenchFailed after so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await is_so():
            if loop.time() > end:
                raise BenchFailed(f"waited {seconds:g} s in vain for {what}")
            await asyncio.sleep(POLL_SECONDS)

    async def linked(self) -> None:
        """Wait until every node and the client are linked with all nodes."""

        async def are_linked() -> bool:
            for name in self.node_names:
                status = await self.get(name, "/pbft/status")
                if not all(peer["connected"] for peer in status["peers"].values()):
                    return False
            return True

        await self.until(are_linked, "links between all nodes", READY_SECONDS)


def ask(url: str, body: bytes | None = None) -> Any:
    """GET, or POST where there is a body; the answer as JSON. Blocking. Raises BenchFailed."""
    try:
        return json.loads(_fetch(url, body))
    except ValueError as error:
        raise BenchFailed(f"{url}: {error}") from error


def builds_at_hand(metrics: str) -> int:
    """How many builds a node has at hand by its metrics, those included that it removes."""
    lines = metrics.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(_BUILDS_HERE))


def _fetch(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body)  # noqa: S310 - our own processes
    try:
        with _opener.open(request, timeout=ANSWER_SECONDS) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        with error:
            raise BenchFailed(f"{url}: {error.code} {error.read()[:500]!r}") from error
    except OSError as error:
        raise BenchFailed(f"{url}: {error}") from error


@contextlib.contextmanager
def open_network(context: Context, name: str, **settings: Any) -> Iterator[Network]:
    """A network in a folder of its own; at the end all of it is stopped and removed.

    settings: as `Network` takes them.
    """
    with context.folder(name) as folder:
        made = Network(folder, **settings)
        try:
            yield made
        except Exception as error:
            error.add_note(made.last_words())
            raise
        finally:
            made.close()
