"""One node as a program: command line, configuration, start and stop."""

import argparse
import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from aiohttp.typedefs import Middleware

from ci.executors import StandbyTimeout
from ci.operations import Ballot
from common.address import Address
from common.backups.commands import add_backup
from common.checks.command import add_check
from common.checks.health import READY_PATH, add_healthcheck
from common.configuration.commands import ConfigCommands
from common.configuration.config import (
    ConfigError,
    NodeConfig,
    load_node_config,
)
from common.configuration.reload import Reloads, ignore_reloads
from common.configuration.secret_file import PRIVATE_UMASK, read_bearer_tokens
from common.doctor.command import add_doctor
from common.finding import Finding
from common.fingerprint import fingerprint_words
from common.installation import NODE_COMMAND, NODE_CONFIG, shown
from common.links.link import Inbox, Links
from common.logs import FORMATTERS, start_logging
from common.loop_errors import on_loop_error
from common.membership.commands import add_confirm, add_init
from common.membership.epochs import epochs_of, in_present_epoch
from common.membership.ready import add_ready
from common.version import VERSION
from common.web.bounded_http import HttpRequest
from common.web.http_tokens import ask_for_token
from common.web.limited_listener import LimitedListener, own_names, refuse_foreign_pages
from common.web.peers import Peers
from driver.build_scheduler import BuildScheduler, SchedulerPorts
from node.backup import NODE_BACKUP
from node.begin_state import join_by_itself
from node.builds.build_runner import BuildRunner
from node.builds.build_tasks import BuildTasks, StoreRequests
from node.check import check_node
from node.diagnostics.capture import Capture
from node.doctor import node_doctor
from node.earlier_epochs import serve_earlier
from node.going_over import GoingOver
from node.opening import Member, open_replica, read_member
from node.replica.ledger_catch_up import LedgerCatchUp
from node.replica.speaker import Speaker
from node.statuses.reporting import NodeReports
from node.storage.damage import StoreDamaged, StoreUnusable
from node.storage.scrub import Scrub
from node.succession import add_succeed, load_present
from node.web.fault_switch import FaultSwitch, NoFaults
from node.web.server import NodeServer
from pbft.genesis import Cluster

# What a ballot that settles nothing may wait for others: more than replicas of equal speed are
# apart with a build, less than people notice.
BATCH_DELAY_SECONDS = 0.25
# Python's collector looks when there are so many objects more than before. It is not needed for
# messages: they go by themselves, most of them at the next checkpoint.
COLLECTED_OBJECTS_MIN = 10_000
# What only people and Prometheus read; the rest is for gateways and peers, who show no token.
READ_TOKEN_ROUTES = frozenset({"/metrics", "/pbft/log"})

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a node until SIGTERM or SIGINT; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command is not None:
            return int(options.run(options))
        ignore_reloads()
        epochs = list(epochs_of(_configure(options)))
        config = epochs[-1]
        member = read_member(config)
        os.umask(PRIVATE_UMASK)
        start_logging(config.log_file, config.name, config.log_format)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        # What was imported stays: each look at all of it held the loop for 35 ms.
        gc.freeze()
        gc.set_threshold(COLLECTED_OBJECTS_MIN)
        uvloop.run(_serve(epochs, member, lambda: _present(options)))
    except StoreUnusable as error:
        _log.critical("%s: nothing is lost; make its disk take writes and start again", error)
        return 1
    except (ConfigError, StoreDamaged, _CannotListen) as error:
        _log.critical("%s", error)
        return 1
    return 0


async def _serve(
    epochs: Sequence[NodeConfig], member: Member, read: Callable[[], NodeConfig]
) -> None:
    """Run the node until SIGTERM or SIGINT, in one epoch after the other.

    epochs: the configuration in each epoch that the node was in, the present one last. read: that
    one, read again. Raises as `_Node.run`.
    """
    while True:
        *earlier, config = epochs
        if not await join_by_itself(config, member):
            return
        serve_earlier(earlier, member)
        node = _Node(config, member)
        if not await node.run(Reloads(config, read)):
            return
        epochs = [*earlier, *epochs_of(config)]
        member = read_member(epochs[-1])
        cluster = member.identity.cluster
        words = " ".join(fingerprint_words(cluster.id))
        _log.warning("epoch %d begins after %d: %s", cluster.epoch, cluster.begins_after, words)


class _CannotListen(Exception):
    """The address is taken or not ours; the text names the key."""


class _Node:
    """The parts of a node, put together."""

    def __init__(self, config: NodeConfig, member: Member) -> None:
        self._config = config
        # told to stop, or something of `_works` ended
        self._ended = asyncio.Event()
        self._works: list[asyncio.Task[None]] = []
        self._is_stopped = False
        identity, limits, replicas = member
        cluster = identity.cluster
        self._tls = replicas.tls
        self._address = replicas[config.name]
        self._runtime = open_replica(config, identity, limits)
        application = self._runtime.application
        self._store = self._runtime.store
        self._links = Links(
            identity,
            dial=replicas.only(_dialled(cluster, config.name)),
            inbox=Inbox(
                self._runtime.on_envelopes, self._runtime.on_connected, self._runtime.has_room
            ),
        )
        peers = member.others()
        self._spoken_links: Speaker = _captured(self._links, config)
        self._faults: FaultSwitch = NoFaults()
        bend: Callable[[Ballot], Ballot] | None = None
        if config.fault_injection is not None:
            # Loaded here alone, so that no other node has code that lies.
            from node.faults.faulty_node import FaultyNode

            faulty = FaultyNode(config.fault_injection, identity, peers)
            self._spoken_links = faulty.links(self._spoken_links)
            self._faults, bend = faulty.routes, faulty.bend
        self._runner = BuildRunner(
            config=config,
            cluster_id=cluster.lineage,
            version=VERSION,
            is_contradicted=partial(application.is_contradicted, replica=config.name),
        )
        self._runtime.on_ledger_entry = self._runner.note_ledger
        self._tasks = BuildTasks(self._runner, bend)
        self._builds = self._tasks.scheduler = BuildScheduler(
            identity,
            application,
            SchedulerPorts(StoreRequests(self._store), self._tasks, self._runtime, _log),
            clients=self._runtime.replica.core.execution.clients,
            standby_timeout=lambda limits: StandbyTimeout(
                # a change of limits may leave less time than what was checked at the start
                min(config.stand_by_seconds, limits.deadline_seconds / 2),
                limits.build_seconds_max,
            ),
        )
        self._ledger_catch_up = LedgerCatchUp(store=self._store, peers=peers)
        self._scrub = Scrub(self._store)
        self._reports = NodeReports.of(self._runtime, config)
        self._going_over = GoingOver(config, self._runtime, peers, connected=self._links.connected)
        self._server = NodeServer(
            self._runtime,
            runner=self._runner,
            links=self._links,
            faults=self._faults,
            scrub=self._scrub,
            going_over=lambda: self._going_over.waits_for,
        )
        _warn(config, cluster)

    async def run(self, reloads: Reloads[NodeConfig] | None = None) -> bool:
        """Serve until SIGTERM or SIGINT, or the next epoch is to begin here; whether it is.

        Raises _CannotListen, ConfigError, StoreUnusable.

        reloads: how it takes another list of repositories; None: not at all.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        listeners = await self._listen()
        await self._runner.start(self._runtime.application.limits)
        self._runtime.start(self._spoken_links, self._builds)
        await self._links.start()
        self._tell_start()
        for work in (self._runtime.task, self._ledger_catch_up.start(), self._scrub.start()):
            self._watch(work)
        self._watch(self._going_over.start())
        if self._reports is not None:
            self._watch(self._reports.start())
        if reloads is not None:
            self._runtime.metrics.watch_configuration(
                lambda: reloads.is_taken, lambda: reloads.read_at
            )
            reloads.start(self._use_repositories)
        await self._ended.wait()
        for listener in listeners:
            listener.close()
        failed = [work for work in self._works if work.done()]
        if reloads is not None:
            await reloads.close()
        await self._close(listeners, failed)
        return self._going_over.begun is not None and not self._is_stopped

    def _stop(self) -> None:
        self._is_stopped = True
        self._ended.set()

    def _watch(self, work: asyncio.Task[None]) -> None:
        """End the node if this ends, which only a fault of our own or of the disk makes it do."""
        self._works.append(work)
        work.add_done_callback(lambda _: self._ended.set())

    def _use_repositories(self, config: NodeConfig) -> None:
        """Take the repositories of this configuration; builds that run keep theirs.

        Raises ConfigError before anything changed.
        """
        if self._reports is not None:
            self._reports.use_repositories(config)
        elif (reports := NodeReports.of(self._runtime, config)) is not None:
            self._reports = reports
            self._watch(reports.start())
        self._runner.use_repositories(config.repositories)
        _warn_of_logins(config)

    async def _listen(self) -> list[LimitedListener]:
        """For members, and for people on this machine. Raises _CannotListen, ConfigError."""
        config = self._config
        own = own_names(config.listen, None, self._address)
        reading = reading_middlewares(config)
        application = self._server.application([refuse_foreign_pages(own), *reading])
        for_earlier = self._server.application_for_earlier([refuse_foreign_pages(own)])
        listeners = [LimitedListener(application, tls=self._tls, for_earlier=for_earlier)]
        await _open(listeners[0], config, "listen", address=config.listen)
        if config.local_listen is not None:
            own = own_names(config.local_listen, None)
            application = self._server.application(
                [refuse_foreign_pages(own), *reading], has_links=False
            )
            listeners.append(LimitedListener(application))
            await _open(listeners[1], config, "local_listen", address=config.local_listen)
        return listeners

    def _tell_start(self) -> None:
        config = self._config
        how = "without TLS" if self._tls is None else "with TLS"
        _log.info("%s %s listens on %s %s", config.name, VERSION, config.listen, how)
        if config.local_listen is not None:
            _log.info("%s is there for this machine at %s", config.name, config.local_listen.url)

    async def _close(
        self, listeners: list[LimitedListener], failed: list[asyncio.Task[None]]
    ) -> None:
        await self._going_over.close()
        await self._scrub.close()
        await self._ledger_catch_up.close()
        if self._reports is not None:
            await self._reports.close()
        await self._tasks.close()
        await self._runner.close()
        await self._links.close()
        await self._runtime.close()
        for listener in listeners:
            await listener.end()
        try:
            for work in failed:
                # A fault of our own: say it, rather than go on in a state nobody has thought of.
                work.result()
            self._going_over.take_over()
        finally:
            self._store.close()
        _log.info("%s stopped", self._config.name)


def _check_whole(config: NodeConfig) -> None:
    """Check what a start checks. Raises ConfigError."""
    read_member(in_present_epoch(config))
    reading_middlewares(config)


def _dialled(cluster: Cluster, name: str) -> tuple[str, ...]:
    """Whom a replica connects to: of a pair, the one that comes later in the genesis does."""
    return cluster.replica_names[: cluster.replica_names.index(name)]


def _captured(links: Links, config: NodeConfig) -> Links | Capture:
    """The links, with everything that is sent written down if that is asked for.

    Raises ConfigError.
    """
    if config.capture_file is None:
        return links
    try:
        return Capture(links, config.capture_file)
    except OSError as error:
        raise ConfigError.at(
            config.file,
            "capture_file",
            f"{config.capture_file} cannot be written ({error.strerror})",
            "a file in a folder that can be written to",
        ) from error


def _warn(config: NodeConfig, cluster: Cluster) -> None:
    """Say what an operator should not have missed."""
    if cluster.quorums.faults_max == 0:
        _log.warning(
            "%d replica(s) tolerate no fault: every single machine can lie or stop the others",
            cluster.quorums.replicas,
        )
    _warn_of_logins(config)
    if config.fault_injection:
        _log.warning("fault injection is on: this node is %s", config.fault_injection)
    if config.plaintext_allowed:
        _log.warning("plaintext_allowed has no effect: TLS is what lets a node listen for others")
    if config.capture_file:
        _log.warning("all sent messages are recorded in %s, without limit", config.capture_file)


def _warn_of_logins(config: NodeConfig) -> None:
    if config.executor == "process" and any(
        entry.ssh_key_file or entry.https_token_file for entry in config.repositories
    ):
        _log.warning("executor: process: builds can read the logins of private repositories")


def reading_middlewares(config: NodeConfig) -> list[Middleware]:
    """What asks whoever reads for a token, if there is a file with some. Raises ConfigError."""
    if config.read_token_file is None:
        return []
    tokens = read_bearer_tokens(config.read_token_file, "read token")
    return [ask_for_token(tokens, lambda route: route in READ_TOKEN_ROUTES)]


async def _open(
    listener: LimitedListener, config: NodeConfig, key: str, *, address: Address
) -> None:
    try:
        await listener.open(address)
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        raise _CannotListen(
            f"{config.file}: {key}: {address} {what}; stop what uses it or choose another port"
        ) from error


NODE_COMMANDS = ConfigCommands(NODE_CONFIG, load_node_config, _check_whole)


# --- command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NODE_COMMAND,
        description="Run one replica of PBFT/CI. The configuration file has all settings;"
        " the other flags override it.",
    )
    parser.add_argument("--version", action="version", version=f"pbft-ci {VERSION}")
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"a node's configuration (default: {shown(NODE_CONFIG)})",
    )
    parser.add_argument(
        "--id",
        type=int,
        default=None,
        metavar="N",
        help=f"the replica's number: reads {shown(NODE_CONFIG.with_name('node<N>.yml'))}",
    )
    parser.add_argument("--host", default=None, help="the address to listen on")
    parser.add_argument("--port", type=int, default=None, help="the port to listen on")
    parser.add_argument("--path", type=Path, default=None, metavar="FILE", help="the log file")
    parser.add_argument(
        "--log-format", choices=FORMATTERS, help="default: as in the file, else text"
    )
    parser.add_argument(
        "--pkLoc", type=Path, default=None, metavar="FILE", help="the private key file"
    )
    parser.add_argument(
        "--peerNodeAddrList",
        nargs="*",
        default=None,
        metavar="HOST:PORT",
        help="accepted and ignored: cluster.yml lists the addresses of the peers and their keys",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    add_init(commands, "replica", "127.0.0.1:10000")
    add_confirm(commands, load_node_config, NODE_CONFIG)
    add_check(commands, "node", _check, default_config=NODE_CONFIG)
    add_healthcheck(commands, "node", _ready_request, default_config=NODE_CONFIG)
    add_ready(commands, load_present, NODE_CONFIG)
    add_succeed(commands)
    NODE_COMMANDS.add(commands)
    add_backup(commands, NODE_BACKUP)
    add_doctor(commands, node_doctor(_check))
    return parser


async def _check(file: Path) -> list[Finding]:
    """What `check` finds for the node of that configuration. Raises ConfigError."""
    config = load_present(file)
    member = read_member(config)
    return await check_node(config, member.identity, member.limits, peers=member.others())


def _ready_request(file: Path) -> HttpRequest:
    """What asks the node of that configuration whether it is ready. Raises ConfigError.

    Where a node answers members alone, it is asked with its own key.
    """
    config = load_present(file)
    request = HttpRequest(url=READY_PATH)
    if config.local_listen is not None:
        return Peers({config.name: config.local_listen}).request(config.name, request)
    tls = read_member(config).replicas.tls
    return Peers({config.name: config.listen}, tls).request(config.name, request)


def _present(options: argparse.Namespace) -> NodeConfig:
    """The configuration, with the flags over it, in the epoch that it is in. Raises ConfigError."""
    return in_present_epoch(_configure(options))


def _configure(options: argparse.Namespace) -> NodeConfig:
    """The configuration with the flags over it. Raises ConfigError."""
    if options.peerNodeAddrList is not None:
        print("--peerNodeAddrList is ignored: cluster.yml lists the peers", file=sys.stderr)
    path = options.config
    if path is None:
        path = NODE_CONFIG
        if options.id is not None:
            path = path.with_name(f"node{options.id}.yml")
    config = load_node_config(path)
    changes: dict[str, object] = {}
    if options.host is not None or options.port is not None:
        host = options.host or config.listen.host
        port = options.port if options.port is not None else config.listen.port
        try:
            changes["listen"] = Address.parse(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            )
        except ValueError as error:
            raise ConfigError(f"--host/--port: {error}") from error
    if options.path is not None:
        changes["log_file"] = options.path.resolve()
    if options.log_format is not None:
        changes["log_format"] = options.log_format
    if options.pkLoc is not None:
        changes["private_key_file"] = options.pkLoc.resolve()
    return msgspec.structs.replace(config, **changes)
