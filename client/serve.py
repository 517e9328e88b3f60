"""The gateway as a process: puts its parts together, serves until it is told to stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

from ci.admission import room_refusal
from ci.limits import Limits, encode_limits
from client.api.artifact_routes import ArtifactApi
from client.api.audit_routes import add_audit_route
from client.api.badge_routes import BadgeApi
from client.api.case_routes import CaseApi
from client.api.change_routes import Authorizer, ChangeApi, is_for_others
from client.api.history_routes import add_history_routes
from client.api.input_routes import InputApi, InputLists
from client.api.log_routes import LogApi
from client.api.metrics import GatewayMetrics
from client.api.openapi import add_openapi
from client.api.proof_routes import add_proof_routes
from client.api.routes import OPEN_ROUTES, Site, add_routes, errors_as_json, sources_of
from client.dashboard import add_dashboard
from client.gateway.case_reader import CaseReader
from client.gateway.collector import Collector
from client.gateway.gateway import Gateway
from client.gateway.gateway_setup import (
    GatewayIdentity,
    GatewayServices,
    GatewaySettings,
    GatewayStorage,
)
from client.gateway.measuring import MissingMeasures
from client.gateway.reporting import Reports, make_reporter, targets_of
from client.gateway.resolve import Resolver
from client.gateway.results_file import ResultsFile
from client.gateway.schedules import Schedules
from client.going_over import GoingOver
from client.login.people import LOGIN_ROUTES, People
from client.login.providers import make_provider
from client.logs.live_logs import LiveLogs
from client.network.artifact_fetch import Artifacts
from client.network.limits_history import LimitsHistory
from client.network.network_watch import NetworkWatch
from client.network.nodes import Nodes
from client.notifications.messenger import Messenger, check_secrets
from client.notifications.notifications import Notifications
from client.storage.archive import Archive
from client.storage.archive_keeper import ArchiveKeeper
from client.storage.database import Database
from client.storage.due_times import DueTimes
from common.configuration.config import (
    ClientConfig,
    ConfigError,
    check_confirmed,
    load_cluster_config,
)
from common.configuration.keys import SigningKey
from common.configuration.reload import Reloads
from common.configuration.secret_file import read_bearer_tokens
from common.fingerprint import fingerprint_words
from common.links.link import Inbox, Links
from common.links.members import replicas_for
from common.loop_errors import on_loop_error
from common.membership.confirmation import read_cluster
from common.membership.epochs import earlier_ids, in_present_epoch, read_seat_key
from common.repositories.git_environment import is_foreign_variable
from common.retention import DAY_SECONDS, KeepRules
from common.statuses.reporter import Reporter
from common.web.http_tokens import ask_for_token
from common.web.limited_listener import (
    LimitedListener,
    listening_sockets,
    own_names,
    refuse_foreign_pages,
)
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.genesis import Cluster

_log = logging.getLogger(__name__)


class AddressInUse(Exception):
    """Nothing can listen there; one line why."""


class Member(NamedTuple):
    """The gateway as a member of its cluster: with whom, by which rules, where, with which key."""

    cluster: Cluster
    limits: Limits
    peers: Peers
    signing_key: SigningKey


async def serve(
    config: ClientConfig, version: str, read: Callable[[], ClientConfig] | None = None
) -> None:
    """Run the gateway until SIGTERM or SIGINT, in one epoch after the other.

    read: reads its configuration again, for a reload; None: there is none.

    Raises ConfigError, AddressInUse, and StorageFailed or OSError where the disk takes nothing.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with contextlib.closing(_Port(config)) as port:
        while await _serve_epoch(config, version, read, stopped=stopped, port=port):
            config = in_present_epoch(config)
            _, cluster = read_cluster(config.cluster_file)
            words = " ".join(fingerprint_words(cluster.id))
            _log.warning("epoch %d begins after %d: %s", cluster.epoch, cluster.begins_after, words)


async def _serve_epoch(
    config: ClientConfig,
    version: str,
    read: Callable[[], ClientConfig] | None,
    *,
    stopped: asyncio.Event,
    port: "_Port",
) -> bool:
    """Run the gateway until it is told to stop, or the next epoch is to begin; whether it is."""
    over = asyncio.Event()
    async with running_gateway(config, version, read, on_over=over.set, port=port) as gateway:
        assert gateway.task is not None, "a running gateway has its task"
        waiting = [asyncio.create_task(event.wait()) for event in (stopped, over)]
        await asyncio.wait([*waiting, gateway.task], return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        is_over = over.is_set() and not stopped.is_set() and not gateway.task.done()
        if not is_over:
            # nobody is to wait for one that ends
            port.close()
            _log.info("stopping")
        if gateway.task.done():
            # A fault of our own: say it, rather than go on in a state nobody has thought of.
            gateway.task.result()
    return is_over


@contextlib.asynccontextmanager
async def running_gateway(
    config: ClientConfig,
    version: str,
    read: Callable[[], ClientConfig] | None = None,
    *,
    on_over: Callable[[], None] = lambda: None,
    port: "_Port | None" = None,
) -> AsyncIterator[Gateway]:
    """The whole gateway, listening; it is closed in order when the block is left.

    read: as for `serve`. on_over: called when the next epoch is to begin. port: stays open
    when the gateway is closed; None: nothing does.
    """
    member = read_member(config)
    check_secrets(config.notify, config.file)
    cluster, limits = member.cluster, member.limits
    forget_foreign_variables()
    async with contextlib.AsyncExitStack() as stack:
        ancestors = earlier_ids(config, cluster)
        database = Database(config.data_directory, cluster.id, config.name, ancestors=ancestors)
        stack.callback(database.close)
        archive = Archive(database, config.data_directory)
        resolver = make_resolver(config)
        stack.callback(resolver.close)
        nodes = await stack.enter_async_context(Nodes(member.peers))
        history = LimitsHistory(limits)
        collector = Collector(cluster, history, nodes, database=database, archive=archive)
        stack.push_async_callback(collector.close)
        reporter = make_reporter(config.repositories, database)
        messenger = Messenger(config.notify, database, file=config.file, clock=time.time)
        public_url = (config.public_url or config.listen.url).rstrip("/")
        gateway = Gateway(
            GatewayIdentity(
                name=config.name,
                cluster=cluster,
                limits=limits,
                signing_key=member.signing_key,
                public_url=None if config.public_url is None else public_url,
            ),
            GatewayStorage(database, archive, ResultsFile(database, config.results_file)),
            GatewayServices(
                Reports(
                    reporter,
                    public_url,
                    cluster.quorums.replicas,
                    notifications=Notifications(
                        config.notify, archive, messenger, public_url=public_url
                    ),
                ),
                resolver,
                collector,
            ),
            settings=GatewaySettings(config.queue_max, config.repositories),
            draw=os.urandom,
        )
        links = Links(
            Identity(cluster, config.name, member.signing_key.sign),
            dial=member.peers,
            inbox=Inbox(gateway.receive, gateway.on_connected),
        )
        stack.push_async_callback(links.close)
        site = Site(
            config=config,
            version=version,
            gateway=gateway,
            archive=archive,
            collector=collector,
            network=NetworkWatch(cluster, nodes, links.connected, limits=history),
        )
        history.on_change = gateway.use_limits
        going_over = GoingOver(
            config, cluster, member.peers, connected=links.connected, on_over=on_over
        )
        site.network.next_epoch = lambda: going_over.waits_for
        metrics = _metrics_of(site)
        people = None if config.login is None else People(config, database, draw=os.urandom)
        listener = LimitedListener(make_application(site, metrics, people))
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(listener.end)
        await listen(listener, config, port)
        _warn(config)
        gateway.start(links)
        reporter.start()
        stack.push_async_callback(reporter.close)
        messenger.start()
        stack.push_async_callback(messenger.close)
        site.network.start()
        stack.push_async_callback(site.network.close)
        keeper = ArchiveKeeper(
            database, archive, keep_rules(config), faults_max=cluster.quorums.faults_max
        )
        keeper.start()
        stack.push_async_callback(keeper.close)
        measures = MissingMeasures(database, archive)
        measures.start()
        stack.push_async_callback(measures.close)
        await links.start()
        schedules = Schedules(gateway, DueTimes(database))
        stack.push_async_callback(schedules.close)
        schedules.use_repositories(config.repositories)
        if read is not None:
            reloads = Reloads(config, read)
            metrics.watch_configuration(lambda: reloads.is_taken, lambda: reloads.read_at)

            def reload(config: ClientConfig) -> None:
                _use_repositories(config, site, resolver, reporter=reporter)
                schedules.use_repositories(config.repositories)

            reloads.start(reload)
            stack.push_async_callback(reloads.close)
        going_over.start()
        stack.push_async_callback(going_over.close)
        _log_start(site)
        yield gateway


def _use_repositories(
    config: ClientConfig, site: Site, resolver: Resolver, *, reporter: Reporter
) -> None:
    """Take the repositories of this configuration. Raises ConfigError before anything changed."""
    sources = sources_of(config)
    try:
        remotes = resolver.remotes_of(config.repositories)
    except ValueError as error:
        raise _not_fetched(config, error) from error
    resolver.use(remotes)
    reporter.use_targets(targets_of(config.repositories))
    site.gateway.use_repositories(config.repositories)
    site.use_repositories(config, sources)
    _warn_of_unsigned(config)


def _log_start(site: Site) -> None:
    _log.info(
        "PBFT/CI %s: cluster %s, webhooks at %s/webHook",
        site.version,
        site.cluster.id.hex()[:12],
        site.public_url,
    )


def _warn(config: ClientConfig) -> None:
    """Say what an operator should not have missed."""
    if config.api_token_file is None and config.login is None and is_for_others(config):
        _log.warning(
            "nobody may cancel, rebuild, approve or append, not on this machine either, while "
            "more than this machine reaches %s: set api_token_file",
            config.public_url or config.listen.url,
        )
    _warn_of_unsigned(config)


def _warn_of_unsigned(config: ClientConfig) -> None:
    is_reached = not config.listen.is_loopback or config.public_url is not None
    for entry in config.repositories:
        if entry.unsigned_allowed and is_reached:
            _log.warning(
                "whoever reaches this gateway may ask for builds of %s: give it a "
                "webhook_secret_file instead of unsigned_allowed",
                entry.url,
            )


def read_member(config: ClientConfig) -> Member:
    """What the cluster file and the key file say. Raises ConfigError."""
    cluster_config = load_cluster_config(config.cluster_file)
    limits = cluster_config.limits_as(Limits)
    cluster = cluster_config.cluster(encode_limits(limits))
    if reason := room_refusal(cluster, limits):
        raise ConfigError(f"{cluster_config.file}: {reason}")
    cluster_config.client_entry(config.name, config.file)
    check_confirmed(config, cluster_config, cluster)
    signing_key = read_seat_key(config, cluster, cluster_config.file)
    peers = replicas_for(cluster_config, cluster, config.name, signing_key=signing_key)
    return Member(cluster, limits, peers, signing_key)


def check_whole(config: ClientConfig) -> None:
    """Check what a start checks. Raises ConfigError."""
    read_member(in_present_epoch(config))
    sources_of(config)
    check_secrets(config.notify, config.file)
    _reading_middlewares(config, Authorizer(config))
    if config.login is not None and not config.login.is_proxy:
        make_provider(config)


def make_application(
    site: Site, metrics: GatewayMetrics | None = None, people: People | None = None
) -> web.Application:
    """The HTTP application of a site. metrics: of `_metrics_of`, if others write to them too.

    people: who may log in; None: nobody.
    """
    own = own_names(site.config.listen, site.config.public_url)
    metrics = metrics or _metrics_of(site)
    authorizer = Authorizer(site.config, people)
    application = web.Application(
        middlewares=[
            metrics.middleware(),
            errors_as_json,
            refuse_foreign_pages(own),
            *([] if people is None else [people.identify]),
            *_reading_middlewares(site.config, authorizer, people),
        ]
    )
    add_routes(application, site)
    add_proof_routes(application, site)
    add_history_routes(application, site)
    metrics.add_to(application)
    add_openapi(application, site.version, site.public_url)
    BadgeApi(lambda: site.config.repositories, site.archive).add_to(application)
    ChangeApi(site, authorizer).add_routes(application)
    log_api = LogApi(site, LiveLogs(site.nodes, site.archive))
    log_api.add_routes(application)
    artifacts = Artifacts(site.nodes, site.config.data_directory)
    ArtifactApi(site, artifacts).add_routes(application)
    inputs = InputLists(site, artifacts)
    InputApi(site, inputs).add_routes(application)
    CaseApi(site, CaseReader(site.archive, site.cluster.quorums)).add_routes(application)
    add_audit_route(application, site)
    add_dashboard(application, site, authorizer, log_api=log_api, inputs=inputs)
    return application


def _metrics_of(site: Site) -> GatewayMetrics:
    metrics = GatewayMetrics(
        name=site.config.name,
        version=site.version,
        cluster=site.cluster,
        archive=site.archive,
        connected=site.connected,
        unfinished=lambda: site.gateway.unfinished,
    )
    metrics.watch_disk(site.config.data_directory)
    metrics.watch_network(site.network.view)
    return metrics


def _reading_middlewares(
    config: ClientConfig, authorizer: Authorizer, people: People | None = None
) -> list[Middleware]:
    """What asks whoever reads for a token, if there is a file with some. Raises ConfigError.

    With login, people with a role need none.
    """
    if config.read_token_file is None:
        return []
    tokens = read_bearer_tokens(config.read_token_file, "read token")
    # whoever may change something may see it
    allowed = (*tokens, *authorizer.tokens)
    if people is None:
        return [ask_for_token(allowed, lambda route: route not in OPEN_ROUTES)]
    is_open = OPEN_ROUTES | LOGIN_ROUTES
    asking = ask_for_token(allowed, lambda route: route not in is_open, people.may_read)
    return [people.send_to_login, asking]


async def listen(
    listener: LimitedListener, config: ClientConfig, port: "_Port | None" = None
) -> None:
    """Open the port, or go on with that one. Raises AddressInUse."""
    try:
        await listener.open(config.listen, () if port is None else await port.open())
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        why = "is in use" if is_taken else f"cannot be used ({error})"
        raise AddressInUse(
            f"{config.file}: listen: {config.listen} {why}; "
            "stop what uses this port, or choose another one"
        ) from error


class _Port:
    """Where the gateway listens, open from one epoch to the next.

    A forge may deliver a webhook once and never again. One that comes while the gateway goes over
    waits until it listens again.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._listen = config.listen
        self._sockets: tuple[socket.socket, ...] = ()

    async def open(self) -> tuple[socket.socket, ...]:
        """The sockets, which are opened once. Raises OSError."""
        if not self._sockets:
            self._sockets = await listening_sockets(self._listen)
        return self._sockets

    def close(self) -> None:
        """Close them; it may be done twice."""
        for each in self._sockets:
            each.close()


def keep_rules(config: ClientConfig) -> KeepRules:
    """How much of the archive is kept."""
    return KeepRules(
        items_max=config.archive_builds_max,
        seconds_max=config.archive_days_max * DAY_SECONDS,
    )


def make_resolver(config: ClientConfig) -> Resolver:
    """The resolver of the configured repositories. Raises ConfigError."""
    try:
        return Resolver(config.repositories, config.data_directory / "git-home")
    except (ValueError, OSError) as error:
        raise _not_fetched(config, error) from error


def _not_fetched(config: ClientConfig, error: Exception) -> ConfigError:
    return ConfigError.at(config.file, "repositories", str(error), "a URL that git can fetch from")


def forget_foreign_variables() -> None:
    """Take out of this process's environment what would steer the git that it starts."""
    for name in [name for name in os.environ if is_foreign_variable(name)]:
        del os.environ[name]
