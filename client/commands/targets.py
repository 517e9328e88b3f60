"""Whom a command talks to: the gateway's URL and the nodes, from flags or configuration."""

import argparse
from pathlib import Path
from typing import Any

from ci.limits import Limits, encode_limits
from client.commands.gateway_client import GatewayApi
from common.address import Address
from common.configuration.config import (
    ClientConfig,
    ConfigError,
    load_client_config,
    load_cluster_config,
    url_of,
)
from common.configuration.secret_file import read_bearer_tokens, read_secrets
from pbft.genesis import Cluster

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


def cluster_flag(parser: argparse.ArgumentParser) -> None:
    """Add --cluster."""
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="the cluster file (default: the one that the configuration names)",
    )


def gateway_to_read(options: argparse.Namespace, webhook_secret: bytes | None = None) -> GatewayApi:
    """The gateway that is meant, shown the first read token if there is one. Raises ConfigError."""
    config = _config_if_any(options)
    file = None if config is None else config.read_token_file
    return GatewayApi(
        _gateway_url(options, config), webhook_secret, _first_token(options, file, "read token")
    )


def gateway_to_change(options: argparse.Namespace) -> GatewayApi:
    """The same with a token of its API, which reads too. Raises ConfigError."""
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


def cluster_and_addresses(options: argparse.Namespace) -> tuple[Cluster, dict[str, Address]]:
    """The cluster, with its public keys, and where its nodes are. Raises ConfigError."""
    file = options.cluster
    if file is None:
        file = load_client_config(options.config).cluster_file
    config = load_cluster_config(file)
    limits = config.limits_as(Limits)
    addresses = {entry.name: entry.address for entry in config.replicas}
    return config.cluster(encode_limits(limits)), addresses


def _config_if_any(options: argparse.Namespace) -> ClientConfig | None:
    path: Path = options.config
    try:
        return load_client_config(path)
    except ConfigError:
        if path.exists():
            raise
        return None
