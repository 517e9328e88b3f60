"""GET /metrics of the gateway, and GET /readyz: for Prometheus and for whoever restarts it.

Names follow Prometheus' conventions. Labels have few values: routes by their pattern, never by
what a stranger asked for.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from client.network.network_view import NetworkView
from client.storage.archive import Archive
from pbft.genesis import Cluster

SECONDS_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)


class GatewayMetrics:
    """The numbers of one gateway, and whether it is ready."""

    def __init__(
        self,
        *,
        name: str,
        version: str,
        cluster: Cluster,
        archive: Archive,
        connected: Callable[[], frozenset[str]],
        unfinished: Callable[[], int],
    ) -> None:
        """connected: the replicas with a link; unfinished: accepted requests without an answer."""
        self._cluster = cluster
        self._archive = archive
        self._connected = connected
        self._unfinished = unfinished
        self._registry = registry = CollectorRegistry()
        info = Gauge(
            "pbftci_info", "Who this is; always 1", ("client", "version"), registry=registry
        )
        info.labels(name, version).set(1)
        self._requests = Counter(
            "pbftci_http_requests_total",
            "Answers by route and status",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "pbftci_build_seconds",
            "From the webhook until the build was ordered, and until its verdict was accepted",
            ("until",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._queue = Gauge("pbftci_unfinished", "Accepted and not answered yet", registry=registry)
        self._builds = Gauge("pbftci_builds", "Builds on record", ("status",), registry=registry)
        self._tests = Gauge(
            "pbftci_tests",
            "Test cases that did not pass everywhere lately, by what is known of them",
            ("state",),
            registry=registry,
        )
        self._links = Gauge(
            "pbftci_peer_connected", "1 where there is a link", ("replica",), registry=registry
        )
        needed = Gauge(
            "pbftci_links_needed", "Links to replicas that an order needs", registry=registry
        )
        needed.set(cluster.quorums.strong)
        self._observed_until = time.time()
        self._observe_network: Callable[[], None] = lambda: None

    def middleware(self) -> Middleware:
        """Counts every answer."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            status = 500
            try:
                response = await handler(request)
                status = response.status
                return response
            except web.HTTPException as error:
                status = error.status
                raise
            finally:
                resource = request.match_info.route.resource
                route = resource.canonical if resource is not None else "other"
                self._requests.labels(_method(request), route, str(status)).inc()

        return count

    def watch_configuration(
        self, is_taken: Callable[[], bool], read_at: Callable[[], float]
    ) -> None:
        """Tell of the last reload: whether it was taken, and when it was, in seconds since 1970."""
        Gauge(
            "pbftci_configuration_taken",
            "1 unless the last reload was refused",
            registry=self._registry,
        ).set_function(is_taken)
        Gauge(
            "pbftci_configuration_read_seconds",
            "When the configuration was last read, at the start or by a reload",
            registry=self._registry,
        ).set_function(read_at)

    def watch_disk(self, folder: Path) -> None:
        """Show how much room the disk of that folder has."""
        disk = Gauge(
            "pbftci_disk_bytes", "The data directory's disk", ("what",), registry=self._registry
        )
        disk.labels("free").set_function(lambda: shutil.disk_usage(folder).free)
        disk.labels("total").set_function(lambda: shutil.disk_usage(folder).total)

    def watch_network(self, view: Callable[[], NetworkView]) -> None:
        """Show what this gateway found out about the replicas by asking them."""
        clocks = Gauge(
            "pbftci_clock_ahead_seconds",
            "How far a replica's clock is ahead of this machine's",
            ("replica",),
            registry=self._registry,
        )
        evidence = Gauge(
            "pbftci_evidence_pairs",
            "Pairs of messages, checked here, that convict a replica",
            ("replica",),
            registry=self._registry,
        )
        differs = Gauge(
            "pbftci_ledger_differs",
            "1 if a replica gave another ledger than f+1 others",
            ("replica",),
            registry=self._registry,
        )
        alarm = Gauge(
            "pbftci_ledger_alarm",
            "1 if a certificate contradicts the ledger that f+1 replicas gave",
            registry=self._registry,
        )

        def observe() -> None:
            network = view()
            alarm.set(network.ledger.alarm is not None)
            # of a replica that gives no answer there is none
            clocks.clear()
            for replica in network.replicas:
                name = replica.replica
                evidence.labels(name).set(replica.proofs_count)
                differs.labels(name).set(replica.ledger_differs_at is not None)
                if replica.ahead_seconds is not None:
                    clocks.labels(name).set(replica.ahead_seconds)

        self._observe_network = observe

    def add_to(self, application: web.Application) -> None:
        """Add the routes."""
        application.router.add_get("/metrics", self._show)
        application.router.add_get("/readyz", self._show_ready)

    async def _show(self, request: web.Request) -> web.Response:
        self._observe_decided()
        self._queue.set(self._unfinished())
        for status, count in self._archive.counts().items():
            self._builds.labels(status).set(count)
        for state, count in self._archive.cases.counts().items():
            self._tests.labels(state).set(count)
        self._observe_network()
        connected = self._connected()
        for name in self._cluster.replica_names:
            self._links.labels(name).set(float(name in connected))
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _show_ready(self, request: web.Request) -> web.Response:
        """200 with links to as many replicas as an order needs; else 503: webhooks wait."""
        connected, needed = len(self._connected()), self._cluster.quorums.strong
        is_ready = connected >= needed
        return web.json_response(
            {"ready": is_ready, "connected": connected, "needed": needed},
            status=200 if is_ready else 503,
        )

    def _observe_decided(self) -> None:
        """Take in the verdicts since the last question; the archive has their times."""
        for record in self._archive.decided_after(self._observed_until):
            assert record.decided_at is not None, "asked for by that time"
            self._observed_until = record.decided_at
            self._seconds.labels("verdict").observe(record.decided_at - record.received_at)
            if record.opened_at is not None:
                self._seconds.labels("order").observe(record.opened_at - record.received_at)


def _method(request: web.Request) -> str:
    """The method, where it is one that is served; a stranger may send any word."""
    return request.method if request.method in {"GET", "HEAD", "POST"} else "other"
