"""Whom a command talks to: the gateway's URL and the nodes, from flags or configuration."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.limits import Limits, encode_limits
from common.configuration.config import (
    ClientConfig,
    ClusterConfig,
    ConfigError,
    load_client_config,
    load_cluster_config,
    url_of,
)
from common.configuration.passphrase import passphrase_flag, unlock_key
from common.configuration.secret_file import read_bearer_tokens, read_secrets
from pbft.genesis import Cluster

# A command imports what it calls: HTTP for a gateway, TLS and keys for nodes.
if TYPE_CHECKING:
    from client.commands.gateway_client import GatewayApi
    from common.configuration.keys import SigningKey
    from common.web.peers import Peers

DEFAULT_GATEWAY = "http://127.0.0.1:8080"

Commands = Any  # argparse keeps the type of add_subparsers to itself


def gateway_flags(parser: argparse.ArgumentParser) -> None:
    """Add --gateway and --token-file."""
    parser.add_argument(
        "--gateway",
        metavar="URL",
        help=f"the gateway (default: from the configuration, else {DEFAULT_GATEWAY})",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a token for the gateway (default: from the configuration, if it names one)",
    )


def json_flag(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON (docs/COMMAND_LINE.md has its schema)"
    )


def cluster_flag(parser: argparse.ArgumentParser) -> None:
    """Add --cluster."""
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="the cluster file (default: the one that the configuration names)",
    )


def nodes_flags(parser: argparse.ArgumentParser) -> None:
    """Add --cluster, and --member-key for commands that ask the nodes themselves."""
    cluster_flag(parser)
    parser.add_argument(
        "--member-key",
        type=Path,
        metavar="FILE",
        help="the private key of a member, which the nodes ask for where they speak TLS"
        " (default: the gateway's, from its configuration)",
    )
    passphrase_flag(parser)


def gateway_to_read(
    options: argparse.Namespace, webhook_secret: bytes | None = None
) -> "GatewayApi":
    """The gateway that is meant, shown the first read token if there is one. Raises ConfigError."""
    from client.commands.gateway_client import GatewayApi

    config = _config_if_any(options)
    file = None if config is None else config.read_token_file
    return GatewayApi(
        _gateway_url(options, config), webhook_secret, _first_token(options, file, "read token")
    )


def gateway_to_change(options: argparse.Namespace) -> "GatewayApi":
    """The same with a token of its API, which reads too. Raises ConfigError."""
    from client.commands.gateway_client import GatewayApi

    config = _config_if_any(options)
    file = None if config is None else config.api_token_file or config.read_token_file
    return GatewayApi(_gateway_url(options, config), token=_first_token(options, file, "API token"))


def _gateway_url(options: argparse.Namespace, config: ClientConfig | None) -> str:
    if options.gateway is not None:
        return str(options.gateway)
    return DEFAULT_GATEWAY if config is None else config.listen.url


def _first_token(options: argparse.Namespace, configured: Path | None, what: str) -> bytes | None:
    file = options.token_file or configured
    return None if file is None else read_bearer_tokens(file, what)[0]


def repository_url(options: argparse.Namespace) -> str | None:
    """`--repository` as the gateway knows it; None: not given. Raises ConfigError.

    A path is first what the configuration means by the same text (from its own folder), then, if
    that is not on its list, what the shell means by it.
    """
    text: str | None = options.repository
    if text is None:
        return None
    config = _config_if_any(options)
    here = url_of(text, Path.cwd() / "--repository", "--repository")
    if config is None:
        return here
    listed = {url for entry in config.repositories for url in (entry.url, *entry.aliases)}
    there = url_of(text, config.file, "--repository")
    return here if there not in listed and here in listed else there


def webhook_secret(options: argparse.Namespace, repository: str | None) -> bytes | None:
    """What to sign with to have this repository (None: the first) built; None: nothing.

    Raises ConfigError where a configuration exists and is wrong.
    """
    config = _config_if_any(options)
    if config is None:
        return None
    for entry in config.repositories:
        if repository in (None, entry.url, *entry.aliases):
            file = entry.webhook_secret_file
            return None if file is None else read_secrets(file, "webhook secret")[0]
    return None


def read_cluster(options: argparse.Namespace) -> Cluster:
    """The cluster, with its public keys. Raises ConfigError."""
    return _cluster_of(_cluster_config(options))


def cluster_and_replicas(
    options: argparse.Namespace, signing_key: "SigningKey | None" = None
) -> tuple[Cluster, "Peers"]:
    """The cluster, and how its nodes are reached. Raises ConfigError.

    signing_key: of the member that asks them, which matters where they speak TLS; None: of the one
    that --member-key names, or else the gateway's.
    """
    from common.links.members import replicas_over_tls, replicas_without_tls

    config = _cluster_config(options)
    cluster = _cluster_of(config)
    if config.tls == "off":
        return cluster, replicas_without_tls(config)
    signing_key = signing_key or _member_key(options, cluster)
    for member in (*cluster.genesis.replicas, *cluster.genesis.clients):
        if member.public_key == signing_key.public_key:
            return cluster, replicas_over_tls(config, cluster, member.name, signing_key=signing_key)
    raise ConfigError.at(
        config.file, "", "no member has this key", "its nodes speak TLS with members alone"
    )


def _cluster_config(options: argparse.Namespace) -> ClusterConfig:
    file = options.cluster
    if file is None:
        file = _gateway(options).cluster_file
    return load_cluster_config(file)


def _gateway(options: argparse.Namespace) -> ClientConfig:
    """The gateway's configuration, in the epoch that it is in. Raises ConfigError."""
    from common.membership.epochs import in_present_epoch

    return in_present_epoch(load_client_config(options.config))


def _cluster_of(config: ClusterConfig) -> Cluster:
    return config.cluster(encode_limits(config.limits_as(Limits)))


def _member_key(options: argparse.Namespace, cluster: Cluster) -> "SigningKey":
    if options.member_key is None:
        from common.membership.epochs import read_seat_key

        return read_seat_key(load_client_config(options.config), cluster)
    return unlock_key(options.member_key, options.passphrase_file)


def _config_if_any(options: argparse.Namespace) -> ClientConfig | None:
    path: Path = options.config
    try:
        return load_client_config(path)
    except ConfigError:
        if path.exists():
            raise
        return None
