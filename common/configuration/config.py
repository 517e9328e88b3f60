"""The YAML configuration files as typed values: a cluster, one node, the client.

Each wrong value is one line: "file: key: what is wrong; what is allowed". Paths in a file are
relative to that file's folder and come out absolute. Nothing here is replicated: what all
replicas must agree on goes from `ClusterConfig` into the genesis, by `cluster`.
"""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

import msgspec

from common.address import Address as Address
from common.config_error import ConfigError as ConfigError
from common.config_error import nearest
from common.configuration.config_reader import absolute_path, read_file, read_struct
from common.configuration.login_config import LoginConfig as LoginConfig
from common.configuration.login_config import check_login
from common.configuration.notify_config import NotifyTarget, check_notify
from common.configuration.package_sources import PackageSource, check_sources
from common.configuration.registry_logins import DOCKER_HUB, check_places, read_registry_logins
from common.fingerprint import parse_fingerprint
from common.host_patterns import is_host_pattern
from common.repositories.credentials import check_access
from common.repositories.repository_config import GatewayRepository as GatewayRepository
from common.repositories.repository_config import RepositoryEntry as RepositoryEntry
from common.repositories.repository_config import (
    check_gateway_repositories,
    check_local_images,
    check_status,
)
from pbft.genesis import (
    PROTOCOL_MIN,
    REPLICA_ROLE,
    Ancestry,
    Cluster,
    Genesis,
    InvalidGenesis,
    Member,
    check_protocol,
    vacant_key,
)
from pbft.quorums import UnsupportedSize, quorums_for

# The libraries of the keys take a fifth of a second of CPU to import: only what reads keys pays it.
if TYPE_CHECKING:
    from common.configuration.keys import SigningKey

GATEWAY_ROLE = "gateway"
OPERATOR_ROLE = "operator"
# As ci.seats has it; a role in the genesis, before the name of a replica.
SEAT_ROLE_PREFIX = "operator of "

# A member's name is in file names, container labels and log lines, so it stays plain.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# What git reads as host:path over ssh.
_SSH_SHORT_FORM = re.compile(r"[\w.-]+@[\w.-]+:.+")

_Kind = TypeVar("_Kind")

# Statements repeat it (ci.operations.PageUrl).
PublicUrl = Annotated[
    str,
    msgspec.Meta(
        max_length=256,
        pattern=r"^https?://[!-~]+\Z",
        description="http:// or https:// and visible ASCII, up to 256 characters",
    ),
]
MemberName = Annotated[
    str,
    msgspec.Meta(pattern=_NAME, description="up to 64 of: letters, digits, '-', '_', '.'"),
]
PublicKeyText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^ed25519:[0-9a-f]{64}\Z", description="ed25519: and 64 hexadecimal digits"
    ),
]
SeatKeyText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(ed25519:[0-9a-f]{64}|vacant)\Z",
        description="ed25519: and 64 hexadecimal digits, or for a replica without owner: vacant",
    ),
]
HexDigest = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")
]
ImagePlace = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$",
        max_length=255,
        description="a registry or a folder in it, as docker.io or ghcr.io/team",
    ),
]
DockerHost = Annotated[
    str,
    msgspec.Meta(
        max_length=255,
        # no user or host that ssh would take for an option
        pattern=r"^(unix:///[!-~]+|tcp://[^\s/@]+:[0-9]+|ssh://(\w[\w.-]*@)?\w[\w.-]*(:[0-9]+)?)\Z",
        description="unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST:PORT",
    ),
]
PackageProxy = Annotated[
    str,
    msgspec.Meta(
        max_length=1024,
        pattern=r"^https?://[!-?A-~]+\Z",
        description="http:// or https://, without a login (each build could read it)",
    ),
]
RuntimeName = Annotated[
    str,
    msgspec.Meta(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        description="a runtime as the engine calls it, such as runsc",
    ),
]
ImageText = Annotated[
    str, msgspec.Meta(max_length=255, pattern=r"^[!-~]+\Z", description="the name of an image")
]
# The key of a replica that nobody has: the seat counts, and is as one that is down.
VACANT = "vacant"
Role = Literal["gateway", "operator"]
# each has connections of its own
SWARM_WORKERS_MAX = 64
SandboxKind = Literal["docker", "process", "swarm"]
LogFormat = Literal["text", "json"]
TlsMode = Literal["required", "off"]
FaultKind = Literal[
    "allowed", "lying", "silent", "equivocating", "delaying", "garbling", "replaying"
]


class ReplicaEntry(msgspec.Struct, frozen=True):
    """A replica as the cluster file lists it."""

    name: MemberName
    # where the others reach it
    address: Address
    # its public key: in this file, or in one of its own
    public_key: SeatKeyText | None = None
    public_key_file: Path | None = None


class ClientEntry(msgspec.Struct, frozen=True):
    """A client as the cluster file lists it, and what it may ask for.

    operates: the replicas that an operator stands for when limits are changed. In the genesis each
        is one more role, so a file without it describes the cluster that it always did.
    """

    name: MemberName
    roles: tuple[Role, ...]
    public_key: PublicKeyText | None = None
    public_key_file: Path | None = None
    operates: tuple[MemberName, ...] = ()

    @property
    def genesis_roles(self) -> tuple[str, ...]:
        """The roles that the genesis gives this client."""
        return (*self.roles, *(SEAT_ROLE_PREFIX + name for name in self.operates))


class AncestryEntry(msgspec.Struct, frozen=True):
    """What a later epoch of a cluster begins with (`pbft.genesis.Ancestry`); `succeed` writes it.

    Digests in hexadecimal digits.
    """

    lineage: HexDigest
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**32)]
    previous: HexDigest
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    state: HexDigest

    @classmethod
    def of(cls, ancestry: Ancestry) -> Self:
        """As it stands in the file."""
        return cls(
            ancestry.lineage.hex(),
            ancestry.epoch,
            ancestry.previous.hex(),
            ancestry.sequence,
            ancestry.state.hex(),
        )

    @property
    def ancestry(self) -> Ancestry:
        """As the protocol has it."""
        lineage, previous, state = map(bytes.fromhex, (self.lineage, self.previous, self.state))
        return Ancestry(lineage, self.epoch, previous, self.sequence, state)


class ClusterConfig(msgspec.Struct, frozen=True):
    """cluster.yml: who takes part, by which rules. Equal for all but for addresses and paths.

    ancestry: of an epoch that continues another one; None in the file that a cluster begins with.
    protocol: the version of the rules. A file without it has the first.
    tls: whether the members speak TLS with each other. All must say the same, but it is no part
        of the genesis. Off if it is not there, as in files from before TLS (`check_plaintext`).
    `limits` are the keys of ci.limits.Limits as they are in the file; `limits_as` checks them.
    """

    file: Path
    replicas: tuple[ReplicaEntry, ...]
    clients: tuple[ClientEntry, ...]
    protocol: Annotated[int, msgspec.Meta(ge=PROTOCOL_MIN, le=2**16)] = PROTOCOL_MIN
    checkpoint_interval: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 128
    window: Annotated[int, msgspec.Meta(ge=2, le=131072)] = 256
    client_window: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    tls: TlsMode = "off"
    limits: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    ancestry: AncestryEntry | None = None

    @property
    def members(self) -> tuple[ReplicaEntry | ClientEntry, ...]:
        """The replicas, then the clients."""
        return (*self.replicas, *self.clients)

    def cluster(self, application: bytes) -> Cluster:
        """The cluster that this file describes, with the public keys of all members read.

        application: the encoded rules of the replicated application. Raises ConfigError, also
        where this release does not speak the file's protocol.
        """
        genesis = self.genesis(application)
        ancestry = None if self.ancestry is None else self.ancestry.ancestry
        try:
            check_protocol(genesis)
            return Cluster(genesis, ancestry)
        except InvalidGenesis as error:
            raise ConfigError(f"{self.file}: {error}") from error

    def genesis(self, application: bytes) -> Genesis:
        """The members and rules alone. Raises ConfigError where a key cannot be read."""
        return Genesis(
            protocol=self.protocol,
            replicas=tuple(
                Member(entry.name, self._public_key(entry), (REPLICA_ROLE,))
                for entry in self.replicas
            ),
            clients=tuple(
                Member(entry.name, self._public_key(entry), entry.genesis_roles)
                for entry in self.clients
            ),
            checkpoint_interval=self.checkpoint_interval,
            window=self.window,
            client_window=self.client_window,
            application=application,
        )

    def _public_key(self, entry: ReplicaEntry | ClientEntry) -> bytes:
        from common.configuration.keys import load_public_key, parse_public_key

        if entry.public_key == VACANT:
            return vacant_key(entry.name)
        if entry.public_key is not None:
            return parse_public_key(entry.public_key)
        assert entry.public_key_file is not None, "load_cluster_config checked it"
        return load_public_key(entry.public_key_file)

    def limits_as(self, kind: type[_Kind]) -> _Kind:
        """`limits` as the struct that knows them (ci.limits.Limits). Raises ConfigError."""
        return read_struct(kind, self.limits, self.file, key="limits")

    def replica_entry(self, name: str, file: Path) -> ReplicaEntry:
        """The replica of that name; `file` (which names it) is in the error. Raises ConfigError."""
        return _entry(self.replicas, name, file, what="a replica", cluster_file=self.file)

    def client_entry(self, name: str, file: Path) -> ClientEntry:
        """The client of that name; `file` (which names it) is in the error. Raises ConfigError."""
        return _entry(self.clients, name, file, what="a client", cluster_file=self.file)


class PackageProxies(msgspec.Struct, frozen=True):
    """The operator's own servers of packages, for steps with a network; None: what a tool has."""

    pip: PackageProxy | None = None
    npm: PackageProxy | None = None
    go: PackageProxy | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the tools find them."""
        urls = {
            "PIP_INDEX_URL": self.pip,
            "NPM_CONFIG_REGISTRY": self.npm,
            "GOPROXY": self.go,
        }
        return {name: url for name, url in urls.items() if url is not None}


class NodeConfig(msgspec.Struct, frozen=True):
    """node*.yml: one replica as its operator runs it. Times in seconds."""

    file: Path
    cluster_file: Path
    name: MemberName
    private_key_file: Path
    listen: Address
    data_directory: Path
    log_file: Path
    repositories: tuple[RepositoryEntry, ...]
    executor: SandboxKind = "docker"
    # None means DOCKER_HOST or the default socket
    docker_host: DockerHost | None = None
    # the folder with ca.pem, cert.pem and key.pem for an engine at tcp://, as DOCKER_CERT_PATH
    docker_tls_folder: Path | None = None
    # with `executor: swarm`: the engine of each worker, by the hostname or id of its node
    swarm_workers: dict[MemberName, DockerHost] = {}
    # of the task that reserves a worker; it has `sleep`
    swarm_image: ImageText = "busybox"
    # of each container of a build, as the engine calls it; None: the engine's default
    runtime: RuntimeName | None = None
    builds_at_once: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    # how many builds' logs and artifacts are kept, of what size in all, and for how long; the
    # oldest go first
    builds_kept_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    builds_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 10 * 2**30
    builds_days_max: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 90
    allow_dockerfile: bool = False
    # logins for image registries, as `docker login` writes them
    registry_auth_file: Path | None = None
    # the registries, or folders in them, whose images may be used; no others are asked
    images_from: tuple[ImagePlace, ...] = (DOCKER_HUB,)
    # of the images that this node pulled, those used last are kept
    images_days_max: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 30
    images_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 20 * 2**30
    # whether a step that asks for a network gets one
    network_allowed: bool = False
    # the hosts that steps may ask for by name (`common.host_patterns`); None: all, where
    # network_allowed
    network_hosts: tuple[str, ...] | None = None
    # private and special addresses that these names may lead to, as ADDRESS or ADDRESS/BITS
    network_addresses: tuple[str, ...] = ()
    # has python3, and carries the connections of steps that name their hosts
    network_relay_image: ImageText = "python:3-alpine"
    # whether a service that asks for it runs as root in its container
    services_as_root: bool = False
    # the authorities that steps with a network trust, as PEM; None: the image's own
    build_ca_file: Path | None = None
    # of its mirrors of repositories, those used last are kept
    mirrors_days_max: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 90
    mirrors_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 20 * 2**30
    # of the caches of builds, those used last are kept; bytes: of all, of a repository, of an entry
    cache_days_max: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 30
    cache_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 20 * 2**30
    cache_repository_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 2 * 2**30
    cache_entry_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 512 * 2**20
    # where what lock files name is fetched from; of what is kept, that which was used last
    sources: tuple[PackageSource, ...] = ()
    inputs_days_max: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 90
    inputs_bytes_kept_max: Annotated[int, msgspec.Meta(ge=0)] = 20 * 2**30
    # of one build: they are in memory while it runs
    inputs_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 512 * 2**20
    fetch_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 300
    # where steps with a network find packages instead: `pip`, `npm`, `go`
    package_proxies: PackageProxies = PackageProxies()
    # `json` writes one object per line, for programs that collect logs
    log_format: LogFormat = "text"
    # how long an infrastructure error is retried before the node abstains
    abstain_after_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 120
    # with `executors: minimal` in the cluster file: how long at least after the first ballot on a
    # build a node that stands by waits for the verdict before it builds too
    stand_by_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 10.0
    pull_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 300
    checkout_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 300
    # how long a request may wait for its order before this replica asks for another primary;
    # doubled for each primary that fails, up to view_change_seconds_max
    view_change_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 4.0
    view_change_seconds_max: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 64.0
    # how this node misbehaves on purpose, only for demonstrations; `allowed`: not yet, but POST
    # /pbft/simulate-byzantine may make it
    fault_injection: FaultKind | None = None
    # everything that this node sends is appended to it, without bound; only for tests
    capture_file: Path | None = None
    # of files from before TLS; without effect (`check_node_listen`)
    plaintext_allowed: bool = False
    # a second address, on this machine alone, where the same is served over HTTP without TLS: for
    # people and Prometheus. None: none
    local_listen: Address | None = None
    # how people reach a gateway, for links in this replica's commit statuses
    public_url: PublicUrl | None = None
    # tokens as in api_token_file of a gateway, for /metrics and /pbft/log; the other routes are
    # what gateways and peers read. None: whoever reaches the node reads them
    read_token_file: Path | None = None
    # decrypts private_key_file and next_private_key_file, if they are encrypted
    private_key_passphrase_file: Path | None = None
    # the next members, as this operator approved them; with it the node goes over to their epoch by
    # itself. None: `cluster.next.yml` beside cluster_file
    next_cluster_file: Path | None = None
    # the key that this replica has in the next epoch, if it is another one
    next_private_key_file: Path | None = None
    # the cluster that this operator compared with the others, in words or hexadecimal digits
    # (`check_confirmed`)
    cluster_fingerprint: str | None = None

    @property
    def plain_listen(self) -> Address:
        """Where this machine asks it without TLS; with `tls: required` only at `local_listen`."""
        return self.local_listen or self.listen


class ClientConfig(msgspec.Struct, frozen=True):
    """client.yml: the gateway."""

    file: Path
    cluster_file: Path
    name: MemberName
    private_key_file: Path
    listen: Address
    data_directory: Path
    log_file: Path
    results_file: Path
    # the first is built if a POST names none; `GatewayRepository` says what each may be asked for
    repositories: tuple[GatewayRepository, ...]
    log_format: LogFormat = "text"
    # accepted webhooks that may wait; beyond it the answer is 429
    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    # how long and how many finished builds are kept
    archive_days_max: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 365
    archive_builds_max: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 10_000
    # of so many of the newest builds, what the nodes say of their messages is kept
    diagrams_max: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 200
    # up to four tokens, one per line, readable by their owner alone; whoever changes builds over
    # the API needs one. None: whoever is on this machine may, nobody else, and nobody at all if
    # `public_url` or `listen` is for others too
    api_token_file: Path | None = None
    # the same for whoever reads anything, but for webhooks and health; tokens of api_token_file are
    # taken too. None: whoever reaches the gateway reads
    read_token_file: Path | None = None
    # how people log in, and who of them may change what. None: tokens alone, and this machine
    login: LoginConfig | None = None
    # how people reach the gateway, for links in statuses; None means `listen`
    public_url: PublicUrl | None = None
    # whom it tells when a branch turns red, and green again
    notify: tuple[NotifyTarget, ...] = ()
    # must be true to listen where other machines can connect
    plaintext_allowed: bool = False
    # these four are as for a node
    private_key_passphrase_file: Path | None = None
    next_cluster_file: Path | None = None
    next_private_key_file: Path | None = None
    cluster_fingerprint: str | None = None


def read_signing_key(config: NodeConfig | ClientConfig) -> "SigningKey":
    """The key of a member's `private_key_file`. Raises ConfigError."""
    from common.configuration.keys import PassphraseNeeded
    from common.configuration.passphrase import unlock_key

    try:
        return unlock_key(config.private_key_file, config.private_key_passphrase_file)
    except PassphraseNeeded as error:
        raise ConfigError.at(
            config.file,
            "private_key_passphrase_file",
            f"is missing, and {config.private_key_file} is encrypted",
            "name the file that holds its passphrase",
        ) from error


def load_cluster_config(path: Path) -> ClusterConfig:
    """The cluster file. Raises ConfigError; key files are not read yet (`cluster` does that)."""
    config = read_file(ClusterConfig, path)
    file = config.file
    try:
        quorums_for(len(config.replicas))
    except UnsupportedSize as error:
        allowed = "1, 2, 3, 4, 7, 10 ... are allowed"
        raise ConfigError.at(file, "replicas", str(error), allowed) from error
    _check_distinct(
        [entry.name for entry in config.members], file, "name", allowed="each member has its own"
    )
    addresses = [str(entry.address) for entry in config.replicas]
    _check_distinct(addresses, file, "address", allowed="each replica has its own")
    for entry in config.members:
        if (entry.public_key is None) is (entry.public_key_file is None):
            raise ConfigError.at(
                file,
                f"public_key of {entry.name}",
                "is missing" if entry.public_key is None else "and public_key_file are both there",
                "each member has one of the two",
            )
    keys = [str(entry.public_key or entry.public_key_file) for entry in config.members]
    _check_distinct(
        [key for key in keys if key != VACANT],
        file,
        "public_key",
        allowed="a key shared by two members would count twice",
    )
    _check_operates(config)
    if config.window < 2 * config.checkpoint_interval:
        raise ConfigError.at(
            file,
            "window",
            f"{config.window} is less than twice checkpoint_interval",
            f"at least {2 * config.checkpoint_interval} is allowed",
        )
    return config


def load_node_config(path: Path, text: str | None = None) -> NodeConfig:
    """A node's file; with `text`, as if it held that. Raises ConfigError."""
    config = read_file(NodeConfig, path, text)
    if config.local_listen is not None and not config.local_listen.is_loopback:
        raise ConfigError.at(
            config.file,
            "local_listen",
            f"{config.local_listen} can be reached by other machines, and it is without TLS",
            "a loopback address is needed",
        )
    _check_engine(config)
    _check_network(config)
    check_places(config.images_from, config.file, "images_from")
    check_sources(config.sources, config.file)
    if config.registry_auth_file is not None:
        read_registry_logins(config.registry_auth_file, config.file, "registry_auth_file")
    if config.view_change_seconds_max < config.view_change_seconds:
        raise ConfigError.at(
            config.file,
            "view_change_seconds_max",
            f"{config.view_change_seconds_max:g} is less than view_change_seconds",
            f"at least {config.view_change_seconds:g} is allowed",
        )
    return msgspec.structs.replace(
        config, repositories=_repositories(config.repositories, config.file)
    )


def _check_network(config: NodeConfig) -> None:
    """Raises ConfigError for what is no pattern for hosts, or no address."""
    for number, host in enumerate(config.network_hosts or ()):
        if not is_host_pattern(host):
            raise ConfigError.at(
                config.file,
                f"network_hosts[{number}]",
                f"{host!r} is no host",
                'a full name in small letters, "*.NAME" or "*", with or without :PORT, is needed',
            )
    for number, text in enumerate(config.network_addresses):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError.at(
                config.file, f"network_addresses[{number}]", str(error), "ADDRESS or ADDRESS/BITS"
            ) from error


def _check_engine(config: NodeConfig) -> None:
    """Refuse an engine that others reach without TLS, and TLS or a runtime that is not used.

    Raises ConfigError.
    """
    if bool(config.swarm_workers) != (config.executor == "swarm"):
        raise ConfigError.at(
            config.file,
            "swarm_workers",
            f"has {len(config.swarm_workers)} workers, and executor is {config.executor}",
            "with executor: swarm, and only then, name each worker and its engine",
        )
    if len(config.swarm_workers) > SWARM_WORKERS_MAX:
        raise ConfigError.at(
            config.file,
            "swarm_workers",
            f"has {len(config.swarm_workers)} workers",
            f"at most {SWARM_WORKERS_MAX} are allowed",
        )
    if config.runtime is not None and config.executor == "process":
        raise ConfigError.at(
            config.file,
            "runtime",
            f"{config.runtime} is for containers, and executor is process",
            "set executor: docker, or remove this line",
        )
    host, folder = config.docker_host, config.docker_tls_folder
    hosts = {f"swarm_workers.{name}": worker for name, worker in config.swarm_workers.items()}
    if host is not None:
        hosts["docker_host"] = host
    if folder is None:
        for key, host in hosts.items():
            if not host.startswith("tcp://") or _is_loopback(host):
                continue
            raise ConfigError.at(
                config.file,
                key,
                f"{host} is on another machine, and without TLS whoever reaches it is root there",
                "set docker_tls_folder, or use ssh://",
            )
        return
    if not any(each.startswith("tcp://") for each in hosts.values()):
        raise ConfigError.at(
            config.file,
            "docker_tls_folder",
            f"is for an engine at tcp://, and docker_host is {host or 'not set'}",
            "set docker_host: tcp://HOST:2376, or remove this line",
        )
    for name in ("ca.pem", "cert.pem", "key.pem"):
        if not (folder / name).is_file():
            raise ConfigError.at(
                config.file,
                "docker_tls_folder",
                f"{folder} has no file {name}",
                "the authority, and this node's certificate and key are needed",
            )


def _is_loopback(docker_host: str) -> bool:
    try:
        return Address.parse(docker_host.removeprefix("tcp://")).is_loopback
    except ValueError:
        return False


def load_client_config(path: Path, text: str | None = None) -> ClientConfig:
    """The client's file; with `text`, as if it held that. Raises ConfigError."""
    config = read_file(ClientConfig, path, text)
    check_gateway_listen(config)
    if not config.repositories:
        raise ConfigError.at(config.file, "repositories", "is empty", "at least one is needed")
    repositories = _repositories(config.repositories, config.file)
    check_gateway_repositories(repositories, config.file)
    check_notify(config.notify, [entry.url for entry in repositories], config.file)
    login = config.login
    if login is not None:
        login = _with_urls(login, config.file)
        check_login(
            login,
            config.file,
            listen=config.listen,
            public_url=config.public_url,
            repositories=[entry.url for entry in repositories],
        )
    return msgspec.structs.replace(config, repositories=repositories, login=login)


def _with_urls(login: LoginConfig, file: Path) -> LoginConfig:
    """With the repositories of its roles as those of the gateway are named. Raises ConfigError."""
    entries = tuple(
        msgspec.structs.replace(
            entry,
            repository=url_of(
                entry.repository, file, f"login.repository_roles[{index}].repository"
            ),
        )
        for index, entry in enumerate(login.repository_roles)
    )
    return msgspec.structs.replace(login, repository_roles=entries)


def check_plaintext(config: ClusterConfig) -> None:
    """Refuse members that would speak without TLS with other machines. Raises ConfigError."""
    for index, entry in enumerate(config.replicas):
        if config.tls == "off" and not entry.address.is_loopback:
            raise ConfigError.at(
                config.file,
                f"replicas[{index}].address",
                f"{entry.address} is no loopback address, and with tls: off nothing is encrypted",
                "set tls: required in the cluster.yml of every member",
            )


def check_node_listen(config: NodeConfig, cluster: ClusterConfig) -> None:
    """Refuse a node that listens without TLS where others can connect. Raises ConfigError."""
    if cluster.tls == "off" and not config.listen.is_loopback:
        raise ConfigError.at(
            config.file,
            "listen",
            f"{config.listen} can be reached by other machines, and with tls: off nothing is"
            " encrypted",
            "use a loopback address, or set tls: required in the cluster.yml of every member",
        )


def check_gateway_listen(config: ClientConfig) -> None:
    """Refuse a gateway that listens without TLS where others can connect, unless its file says
    that a proxy with TLS is in front of it. Raises ConfigError."""
    if not config.listen.is_loopback and not config.plaintext_allowed:
        raise ConfigError.at(
            config.file,
            "listen",
            f"{config.listen} can be reached by other machines, and the connection is not"
            " encrypted",
            "use a loopback address, or set plaintext_allowed: true where a proxy with TLS is in"
            " front of it",
        )


def check_confirmed(
    config: NodeConfig | ClientConfig, cluster_config: ClusterConfig, cluster: Cluster
) -> None:
    """Refuse a cluster that this operator has not confirmed. Raises ConfigError.

    A cluster whose replicas are all on this machine needs no confirmation: whoever could change
    its files could change this file too.
    """
    text = config.cluster_fingerprint
    if text is None:
        if all(entry.address.is_loopback for entry in cluster_config.replicas):
            return
        raise ConfigError.at(
            config.file,
            "cluster_fingerprint",
            f"is missing, and {cluster_config.file} has replicas on other machines",
            "run `confirm`: it shows the fingerprint, which the operators compare, and keeps it",
        )
    try:
        confirmed = parse_fingerprint(text)
    except ValueError as error:
        raise ConfigError.at(
            config.file,
            "cluster_fingerprint",
            str(error),
            "24 words or 64 hexadecimal digits are needed",
        ) from error
    if confirmed != cluster.id:
        raise ConfigError.at(
            config.file,
            "cluster_fingerprint",
            f"is {confirmed.hex()}, and that of {cluster_config.file} is {cluster.id.hex()}",
            "members, keys or rules changed: compare the fingerprint with the other operators"
            " again, and `confirm` it",
        )


_Repository = TypeVar("_Repository", bound=RepositoryEntry)


def _repositories(entries: tuple[_Repository, ...], file: Path) -> tuple[_Repository, ...]:
    found = []
    for index, entry in enumerate(entries):
        key = f"repositories[{index}]"
        check_status(entry, file, key)
        check_local_images(entry, file, key)
        found.append(
            msgspec.structs.replace(
                entry,
                url=url_of(entry.url, file, f"{key}.url"),
                fetch_url=None
                if entry.fetch_url is None
                else url_of(entry.fetch_url, file, f"{key}.fetch_url"),
                submodule_of=None
                if entry.submodule_of is None
                else tuple(
                    url_of(url, file, f"{key}.submodule_of[{place}]")
                    for place, url in enumerate(entry.submodule_of)
                ),
            )
        )
    _check_distinct([entry.url for entry in found], file, "repositories", allowed="list each once")
    listed = {entry.url for entry in found}
    for index, entry in enumerate(found):
        check_access(entry.access, entry.fetched_from, file, key=f"repositories[{index}]")
        for place, url in enumerate(entry.submodule_of or ()):
            if url not in listed:
                raise ConfigError.at(
                    file,
                    f"repositories[{index}].submodule_of[{place}]",
                    f"{url} is not on the list{nearest(url, sorted(listed))}",
                    "the url of another entry of repositories is needed",
                )
    return tuple(found)


def url_of(text: str, file: Path, key: str) -> str:
    """A URL as it is; a path, relative to the file's folder, as file:///... Raises ConfigError."""
    if not text.strip() or not text.isprintable():
        raise ConfigError.at(file, key, "is empty or not printable", "a URL or a path is needed")
    if "://" in text or _SSH_SHORT_FORM.fullmatch(text):
        return text
    return absolute_path(text, file).as_uri()


def _check_operates(config: ClusterConfig) -> None:
    """Each operator stands for replicas of this file, each once. Raises ConfigError."""
    replicas = {entry.name for entry in config.replicas}
    for entry in config.clients:
        key = f"operates of {entry.name}"
        if entry.operates and OPERATOR_ROLE not in entry.roles:
            raise ConfigError.at(
                config.file, key, "is there without the role operator", "only operators have it"
            )
        for name in entry.operates:
            if name not in replicas:
                raise ConfigError.at(
                    config.file, key, f"{name} is no replica of this file", "name replicas"
                )
        _check_distinct(
            list(entry.operates), config.file, key, allowed="each replica is named once"
        )


def _check_distinct(values: Sequence[str], file: Path, key: str, *, allowed: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError.at(file, key, f"{value} is there twice", allowed)
        seen.add(value)


_Entry = TypeVar("_Entry", ReplicaEntry, ClientEntry)


def _entry(
    entries: tuple[_Entry, ...], name: str, file: Path, *, what: str, cluster_file: Path
) -> _Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    names = [entry.name for entry in entries]
    raise ConfigError.at(
        file,
        "name",
        f"'{name}' is not {what} of {cluster_file}{nearest(name, names)}",
        f"there are: {', '.join(names) or 'none'}",
    )
