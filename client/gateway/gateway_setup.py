"""What a gateway is made of, in groups."""

from collections.abc import Sequence
from dataclasses import dataclass

from ci.limits import Limits
from client.gateway.collector import Collector
from client.gateway.reporting import Reports
from client.gateway.resolve import Resolver
from client.gateway.results_file import ResultsFile
from client.storage.archive import Archive
from client.storage.database import Database
from common.configuration.keys import SigningKey
from common.repositories.repository_config import GatewayRepository
from pbft.genesis import Cluster


@dataclass(frozen=True)
class GatewayIdentity:
    """Who the gateway is in the network that it asks."""

    # its name in the cluster's file
    name: str
    cluster: Cluster
    # of the genesis; `Gateway.use_limits` takes those that hold later
    limits: Limits
    signing_key: SigningKey
    # where people find it, as its operator says; without a slash at its end. None: nowhere
    public_url: str | None = None


@dataclass(frozen=True)
class GatewayStorage:
    """Where it keeps what must survive a crash."""

    database: Database
    archive: Archive
    results: ResultsFile


@dataclass(frozen=True)
class GatewayServices:
    """What works for it beside its turns."""

    reports: Reports
    resolver: Resolver
    collector: Collector


@dataclass(frozen=True)
class GatewaySettings:
    """What its operator set."""

    # unfinished requests of all kinds
    queue_max: int
    # the settings of each repository; the others have those of GatewayRepository
    repositories: Sequence[GatewayRepository] = ()
