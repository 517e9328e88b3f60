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
    """The CHECKPOINT messages that were received and checked, by sequence number and replica.

    Bounded: of each replica only the newest few are kept, so one that floods evicts its own.
    """

    def __init__(self, quorums: Quorums, kept_per_replica: int) -> None:
        self._quorums = quorums
        self._kept_per_replica = kept_per_replica
        self._votes: dict[int, dict[int, tuple[Checkpoint, Signed]]] = {}

    def vote_of(self, sequence: int, replica: int) -> Checkpoint | None:
        """What that replica said about that sequence number; its first word stands."""
        vote = self._votes.get(sequence, {}).get(replica)
        return vote[0] if vote else None

    def add(self, message: Checkpoint, signed: Signed) -> None:
        """Keep a checked CHECKPOINT of a replica that has not spoken about this number yet."""
        assert self.vote_of(message.sequence, message.replica) is None
        self._votes.setdefault(message.sequence, {})[message.replica] = (message, signed)
        own = sorted(n for n, votes in self._votes.items() if message.replica in votes)
        for sequence in own[: -self._kept_per_replica]:
            del self._votes[sequence][message.replica]
            if not self._votes[sequence]:
                del self._votes[sequence]

    def certificate(self, sequence: int) -> StableCertificate | None:
        """The proof that the checkpoint at this number is stable, where there is one."""
        by_digest: dict[bytes, list[Signed]] = {}
        for message, signed in self._votes.get(sequence, {}).values():
            by_digest.setdefault(message.digest, []).append(signed)
        for digest, signed_votes in by_digest.items():
            if len(signed_votes) >= self._quorums.strong:
                return StableCertificate(sequence, digest, tuple(signed_votes))
        return None

    def own_above(self, replica: int, sequence: int) -> list[Signed]:
        """That replica's CHECKPOINTs above a number, in order."""
        above = sorted(n for n in self._votes if n > sequence and replica in self._votes[n])
        return [self._votes[n][replica][1] for n in above]

    def forget_up_to(self, sequence: int) -> None:
        """Drop what a stable checkpoint at `sequence` has made useless."""
        self._votes = {n: votes for n, votes in self._votes.items() if n > sequence}


def state_digest(parts: dict[str, bytes]) -> bytes:
    """The root over the parts of the replicated state: each part is checkable by itself.

    SHA-256 over the MessagePack of the sorted list of (name, SHA-256 of the part).
    """
    leaves = [(name, digest_of(parts[name])) for name in sorted(parts)]
    return digest_of(b"pbft-ci state\0" + msgspec.msgpack.encode(leaves))
