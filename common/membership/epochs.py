"""Which epoch a member is in, and what it needs for the next one (docs/decisions/0062, 0063).

The rule: a member starts from the cluster file that its operator confirmed. It goes on by what its
data directory has of later epochs, and each counts by its link alone: `strong` replicas of the
epoch before signed it. The next members are those of the operator's own file, which must be the
configuration that the replicas agreed on.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from ci.limits import Limits, encode_limits
from common.config_error import ConfigError
from common.configuration.config import (
    AncestryEntry,
    ClientConfig,
    ClusterConfig,
    NodeConfig,
    check_confirmed,
    load_cluster_config,
    read_signing_key,
)
from common.configuration.keys import SigningKey, public_key_text, verify
from common.epoch_folder import (
    BEGIN_NAME,
    CLUSTER_NAME,
    EPOCH_FOLDERS,
    LINK_NAME,
    epoch_folder,
)
from common.membership.confirmation import read_cluster
from pbft.epoch_link import LINK_BYTES_MAX, decode_link, follow
from pbft.genesis import Ancestry, Cluster, InvalidGenesis, check_protocol
from pbft.ports import Refusal

# Beside the cluster file.
NEXT_NAME = "cluster.next.yml"

Config = TypeVar("Config", NodeConfig, ClientConfig)


class Following(msgspec.Struct, frozen=True):
    """The next epoch: its file as operators agreed on it (text, and what it says), its cluster."""

    text: str
    config: ClusterConfig
    cluster: Cluster


def in_present_epoch(config: Config) -> Config:
    """The configuration, with the cluster file of the epoch that this member has come to.

    Raises ConfigError.
    """
    for later in epochs_of(config):
        config = later
    return config


def epochs_of(config: Config) -> Iterator[Config]:
    """The configuration in its own epoch, and in each later one that this member has begun.

    Raises ConfigError.
    """
    later: Config | None = config
    while later is not None:
        config = later
        yield config
        later = _later(config)


def earlier_ids(config: NodeConfig | ClientConfig, cluster: Cluster) -> tuple[bytes, ...]:
    """The ids of the epochs before this one, as far as they are known here.

    cluster: the one that the member is in. A member that was away longer may have passed over the
    epoch before, so the cluster files in its data directory count, too.
    """
    ids = list(cluster.ancestors)
    for file in sorted(config.data_directory.glob(f"{EPOCH_FOLDERS}/{CLUSTER_NAME}")):
        with contextlib.suppress(ConfigError):
            _, other = read_cluster(file)
            if other.lineage == cluster.lineage and other.epoch < cluster.epoch:
                ids.append(other.id)
    return tuple(ids)


def next_file(config: NodeConfig | ClientConfig) -> Path:
    """Where the operator of this member puts the next members."""
    return config.next_cluster_file or config.cluster_file.with_name(NEXT_NAME)


def read_agreed(file: Path, ancestry: Ancestry, configuration: bytes) -> Following:
    """The next epoch with the members of that file. Raises ConfigError.

    configuration: the digest of what the replicas agreed on, which the file must have.
    """
    if not file.exists():
        raise ConfigError.at(
            file,
            "",
            f"is missing: it says where the members of epoch {ancestry.epoch} are",
            "put the file there that was proposed (NEXT.yml, from somebody you trust)",
        )
    config = load_cluster_config(file)
    genesis = config.genesis(encode_limits(config.limits_as(Limits)))
    try:
        check_protocol(genesis)
        found = Cluster(genesis, ancestry)
    except InvalidGenesis as error:
        raise ConfigError(f"{file}: {error}") from error
    if found.configuration != configuration:
        raise ConfigError.at(
            file,
            "",
            f"has the digest {found.configuration.hex()}, and the replicas agreed on"
            f" {configuration.hex()}",
            "take the file that was proposed",
        )
    # The text is what is written: that of a file that was not changed meanwhile.
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    if load_cluster_config(file) != config:
        raise ConfigError(f"{file}: was changed while it was read")
    return Following(text, config, found)


def cluster_file_text(following: Following) -> str:
    """The agreed file with the ancestry, and with all keys in it: it lies in another folder."""
    assert following.cluster.ancestry is not None
    settings = yaml.safe_load(following.text)
    genesis = following.cluster.genesis
    for listed, members in (("replicas", genesis.replicas), ("clients", genesis.clients)):
        for entry, member in zip(settings[listed], members, strict=True):
            if entry.pop("public_key_file", None) is not None:
                entry["public_key"] = public_key_text(member.public_key)
    settings["ancestry"] = msgspec.to_builtins(AncestryEntry.of(following.cluster.ancestry))
    header = f"# Epoch {following.cluster.epoch}; written from the file that was agreed on.\n"
    return header + yaml.safe_dump(settings, sort_keys=False)


def followed_by(cluster: Cluster, data: bytes) -> Cluster | Refusal:
    """The cluster of the next epoch, if these bytes are a link to it; or why not."""
    link = decode_link(data)
    return link if isinstance(link, Refusal) else follow(cluster, link, verify=verify)


def read_seat_key(
    config: NodeConfig | ClientConfig, cluster: Cluster, named_in: Path | None = None
) -> SigningKey:
    """The one of the member's key files that is its key in this cluster. Raises ConfigError.

    named_in: the file that has the public key. `next_private_key_file` is read only where the
    present key does not fit.
    """
    wanted = cluster.public_key(config.name)
    signing_key = read_signing_key(config)
    if signing_key.public_key == wanted:
        return signing_key
    other = ""
    if config.next_private_key_file is not None:
        file = config.next_private_key_file
        signing_key = read_signing_key(msgspec.structs.replace(config, private_key_file=file))
        if signing_key.public_key == wanted:
            return signing_key
        other = f", nor is {file} (next_private_key_file)"
    raise ConfigError(
        f"{config.file}: private_key_file: {config.private_key_file} is not the key of"
        f" {config.name} in {named_in or f'epoch {cluster.epoch}'}{other};"
        " the two must be one pair"
    )


def _later(config: Config) -> Config | None:
    """The configuration in the next epoch that this member has begun; None if there is none.

    A replica's folder counts once its state is there, which is written last. A gateway's appears
    with all that it holds. Of an epoch that this member passed over there is the link alone.
    """
    if not config.cluster_file.exists():
        return None  # of a member that is none yet
    ancestry = load_cluster_config(config.cluster_file).ancestry
    first = ancestry.epoch + 1 if ancestry else 1
    try:
        folders = _folders_to_begun(config, first)
    except PermissionError:
        # Of a person whose command reads the configuration, and may not see the service's data.
        return None
    if not folders:
        return None
    cluster_config, cluster = read_cluster(config.cluster_file)
    if first != cluster.epoch + 1:
        return _later(config)  # an operator has replaced the file meanwhile
    check_confirmed(config, cluster_config, cluster)
    for folder in folders:
        cluster = _followed_by_file(cluster, folder / LINK_NAME, config.cluster_file)
    file = folders[-1] / CLUSTER_NAME
    _, later = read_cluster(file)
    if later.id != cluster.id:
        raise ConfigError(f"{file}: is not the cluster that {folders[-1] / LINK_NAME} leads to")
    told = None if config.cluster_fingerprint is None else later.id.hex()
    return msgspec.structs.replace(
        config,
        cluster_file=file,
        cluster_fingerprint=told,
        # beside the file that the operator has, in every epoch
        next_cluster_file=next_file(config),
    )


def _folders_to_begun(config: NodeConfig | ClientConfig, first: int) -> list[Path]:
    """The folders from that epoch on up to the one that was begun; none if none was.

    Raises PermissionError.
    """
    names = (CLUSTER_NAME, BEGIN_NAME) if isinstance(config, NodeConfig) else (CLUSTER_NAME,)
    folders = []
    for epoch in itertools.count(first):
        folder = epoch_folder(config.data_directory, epoch)
        folders.append(folder)
        if all((folder / name).exists() for name in names):
            return folders
        if not (folder / LINK_NAME).exists():
            break
    return []


def _followed_by_file(cluster: Cluster, file: Path, cluster_file: Path) -> Cluster:
    """The cluster that the link in a file leads to. Raises ConfigError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(LINK_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    followed = followed_by(cluster, data)
    if isinstance(followed, Refusal):
        raise ConfigError(
            f"{file}: {followed.reason}; it must lead on from {cluster_file}:"
            " if that file is of another cluster, give that one a data_directory of its own"
        )
    return followed
