"""Sets of signed messages of distinct replicas that prove something, and how they are counted."""

import msgspec

from pbft.codec import digest_of
from pbft.messages import Checkpoint, Signed
from pbft.quorums import Quorums


class StableCertificate(msgspec.Struct, frozen=True, array_like=True):
    """`strong` CHECKPOINTs of distinct replicas with one sequence number and digest (4.3)."""

    sequence: int
    digest: bytes
    checkpoints: tuple[Signed, ...]


GENESIS_CERTIFICATE = StableCertificate(0, bytes(32), ())


class CheckpointVotes:
    """The CHECKPOINT messages that were received and checked, by replica and sequence number.

    Bounded: of each replica only the few that arrived last are kept, so one that floods evicts
    its own. Not the highest ones: with those, a replica that speaks of far-away numbers could
    never again be counted in a certificate that its peers re-send.
    """

    def __init__(self, quorums: Quorums, kept_per_replica: int) -> None:
        self._quorums = quorums
        self._kept_per_replica = kept_per_replica
        # by replica, in order of arrival
        self._votes: dict[int, dict[int, tuple[Checkpoint, Signed]]] = {}

    def vote_of(self, sequence: int, replica: int) -> Checkpoint | None:
        """What that replica said last about that sequence number."""
        vote = self._votes.get(replica, {}).get(sequence)
        return vote[0] if vote else None

    def add(self, message: Checkpoint, signed: Signed) -> None:
        """Keep a checked CHECKPOINT, in place of what its replica said about this number."""
        own = self._votes.setdefault(message.replica, {})
        own.pop(message.sequence, None)
        own[message.sequence] = (message, signed)
        if len(own) > self._kept_per_replica:
            del own[next(iter(own))]

    def certificate(self, sequence: int) -> StableCertificate | None:
        """The proof that the checkpoint at this number is stable, where there is one."""
        by_digest: dict[bytes, list[Signed]] = {}
        for votes in self._votes.values():
            if sequence in votes:
                message, signed = votes[sequence]
                by_digest.setdefault(message.digest, []).append(signed)
        for digest, signed_votes in by_digest.items():
            if len(signed_votes) >= self._quorums.strong:
                return StableCertificate(sequence, digest, tuple(signed_votes))
        return None

    def own_above(self, replica: int, sequence: int) -> list[Signed]:
        """That replica's CHECKPOINTs above a number, in order."""
        votes = self._votes.get(replica, {})
        return [votes[n][1] for n in sorted(votes) if n > sequence]

    def forget_up_to(self, sequence: int) -> None:
        """Drop what a stable checkpoint at `sequence` has made useless."""
        self._votes = {
            replica: {n: vote for n, vote in votes.items() if n > sequence}
            for replica, votes in self._votes.items()
        }


def state_digest(parts: dict[str, bytes]) -> bytes:
    """The root over the parts of the replicated state: each part is checkable by itself.

    SHA-256 over the MessagePack of the sorted list of (name, SHA-256 of the part).
    """
    leaves = [(name, digest_of(parts[name])) for name in sorted(parts)]
    return digest_of(b"pbft-ci state\0" + msgspec.msgpack.encode(leaves))
