"""How a member reaches the replicas: where the cluster file has them, with TLS or without."""

import os
import time

from common.configuration.config import ClusterConfig, check_plaintext
from common.configuration.keys import SigningKey
from common.tls.certificates import PinnedKeys
from common.tls.member_tls import MemberTls
from common.web.peers import Peers
from pbft.genesis import Cluster


def replicas_for(
    config: ClusterConfig, cluster: Cluster, name: str, *, signing_key: SigningKey
) -> Peers:
    """All replicas, as the cluster file says, for the member of that name and key.

    Raises ConfigError where it would speak without TLS with other machines.
    """
    if config.tls == "off":
        return replicas_without_tls(config)
    return replicas_over_tls(config, cluster, name, signing_key=signing_key)


def replicas_without_tls(config: ClusterConfig) -> Peers:
    """All replicas. Raises ConfigError where other machines reach one."""
    check_plaintext(config)
    return Peers({entry.name: entry.address for entry in config.replicas})


def replicas_over_tls(
    config: ClusterConfig, cluster: Cluster, name: str, *, signing_key: SigningKey
) -> Peers:
    """All replicas, for the member of that name and key."""
    members = (*cluster.genesis.replicas, *cluster.genesis.clients)
    pinned = PinnedKeys(cluster.id, {member.name: member.public_key for member in members})
    tls = MemberTls(pinned, name, signing_key, clock=time.time, randomness=os.urandom)
    return Peers({entry.name: entry.address for entry in config.replicas}, tls)
