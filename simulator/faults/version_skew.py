"""What a replica of the next version says that this version does not know.

A correct replica with newer code speaks the protocol of its cluster, and beside it sends messages
of types and forms that only its own kind reads. To this version they are refusals, nothing more.
"""

import msgspec

from pbft.codec import SIGNING_PREFIX
from pbft.genesis import Cluster
from pbft.messages import Envelope, Signed
from pbft.ports import Sign


def newer_words(name: str, cluster: Cluster, sign: Sign) -> list[Envelope]:
    """A message of a new type, one with a field more, and one with a number of a new kind."""
    index = cluster.replica_index(name)
    words: list[tuple[str, list[object]]] = [
        ("Gossip", ["gossip", 1, {"peers": [index]}, index]),
        ("Status", ["status", 0, True, 0, 0, index, "n+1"]),
        ("Commit", ["commit", 0, [1, 2], bytes(32), index]),
        ("Checkpoint", ["checkpoint", 0, bytes(64), index]),
    ]
    envelopes = []
    for kind, fields in words:
        payload = msgspec.msgpack.encode(fields)
        covered = SIGNING_PREFIX + kind.encode() + b"\0" + cluster.id
        signature = sign(covered + cluster.epoch.to_bytes(8, "big") + payload)
        envelopes.append(Envelope(Signed(name, payload, signature)))
    return envelopes
