"""A member of an epoch gives those of earlier ones what leads there (docs/decisions/0063).

Over TLS a member has another name in each epoch. A gateway or a replica that was away knows the one
of its own epoch alone. So a node keeps the leaf and the keys of the epochs that it came through.
"""

import logging
from collections.abc import Sequence

from common.configuration.config import ConfigError, NodeConfig
from common.links.members import replicas_over_tls
from common.membership.confirmation import read_cluster
from common.membership.epochs import read_seat_key
from node.opening import Member

# The last ones: whoever is further behind is given the cluster file.
EPOCHS_MAX = 8

_log = logging.getLogger(__name__)


def serve_earlier(earlier: Sequence[NodeConfig], member: Member) -> None:
    """Have the node's TLS take connections of members of these epochs, if it speaks TLS.

    earlier: the node's configuration in each of them, the newest last. An epoch whose key the
    operator has destroyed is left out: other members have theirs.
    """
    tls = member.replicas.tls
    if tls is None:
        return
    for config in earlier[-EPOCHS_MAX:]:
        try:
            cluster_config, cluster = read_cluster(config.cluster_file)
            key = read_seat_key(config, cluster)
        except ConfigError as error:
            _log.info("members of an earlier epoch are not served: %s", error)
            continue
        peers = replicas_over_tls(cluster_config, cluster, config.name, signing_key=key)
        assert peers.tls is not None, "asked for"
        tls.serve_earlier(peers.tls, cluster.epoch)
