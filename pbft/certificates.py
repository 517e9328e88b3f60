"""Sets of signed messages of distinct replicas that prove something, and how they are checked.

The rule: a certificate counts each replica once, and every message in it is checked as if it had
come alone; what the certificate is said to be about is read from the messages, never beside them.
One inside a VIEW-CHANGE holds nothing twice and nothing beyond what it may need: the new primary
puts it into its NEW-VIEW, which must not be larger than `genesis.new_view_bytes` reckons.
"""

from collections.abc import Iterable, Mapping

import msgspec

from pbft.authentication import Authenticator
from pbft.codec import digest_of
from pbft.genesis import Cluster
from pbft.messages import (
    Checkpoint,
    Commit,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Signed,
    ViewChange,
)
from pbft.ports import Executed, Refusal
from pbft.quorums import Quorums


class StableCertificate(msgspec.Struct, frozen=True, array_like=True):
    """`strong` CHECKPOINTs of distinct replicas with one sequence number and digest (4.3)."""

    sequence: int
    digest: bytes
    checkpoints: tuple[Signed, ...]


def first_certificate(cluster: Cluster) -> StableCertificate:
    """What an epoch begins with: it needs no votes, for the cluster's id names the state."""
    state = bytes(32) if cluster.ancestry is None else cluster.ancestry.state
    return StableCertificate(cluster.begins_after, state, ())


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

    def vote_of(self, sequence: int, replica: int) -> tuple[Checkpoint, Signed] | None:
        """What that replica said last about that sequence number."""
        return self._votes.get(replica, {}).get(sequence)

    def add(self, message: Checkpoint, signed: Signed) -> None:
        """Keep a checked CHECKPOINT, in place of what its replica said about this number."""
        own = self._votes.setdefault(message.replica, {})
        own.pop(message.sequence, None)
        own[message.sequence] = (message, signed)
        if len(own) > self._kept_per_replica:
            del own[next(iter(own))]

    def certificate(
        self, sequence: int, also: tuple[Checkpoint, Signed] | None = None
    ) -> StableCertificate | None:
        """The proof that the checkpoint at this number is stable, where there is one.

        also: a vote for it that counts as well, unless its replica's is here.
        """
        found = [votes[sequence] for votes in self._votes.values() if sequence in votes]
        if also is not None and self.vote_of(sequence, also[0].replica) is None:
            found.append(also)
        by_digest: dict[bytes, list[Signed]] = {}
        for message, signed in found:
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


def state_leaves(parts: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """(name, SHA-256) of each part of the replicated state, sorted by name."""
    return tuple((name, digest_of(parts[name])) for name in sorted(parts))


def leaves_digest(leaves: Iterable[tuple[str, bytes]]) -> bytes:
    """The root over the leaves: with it, each part of the state is checkable by itself."""
    return digest_of(b"pbft-ci state\0" + msgspec.msgpack.encode(tuple(leaves)))


def state_digest(parts: Mapping[str, bytes]) -> bytes:
    """The digest of the replicated state that CHECKPOINTs bear (4.3)."""
    return leaves_digest(state_leaves(parts))


def check_stable(
    certificate: Iterable[Signed], sequence: int, cluster: Cluster, *, authenticator: Authenticator
) -> Refusal | bytes:
    """The state digest that `strong` CHECKPOINTs of distinct replicas prove for that number.

    There may be one of each replica, and no replica's twice.
    """
    replicas: set[int] = set()
    digests: set[bytes] = set()
    for signed in certificate:
        message = authenticator.read(signed)
        if not isinstance(message, Checkpoint) or message.sequence != sequence:
            return Refusal("the checkpoint certificate holds something else")
        if message.replica in replicas:
            return Refusal("the checkpoint certificate holds a replica twice")
        if authenticator.check(signed, message):
            return Refusal("a signature in the checkpoint certificate does not hold")
        replicas.add(message.replica)
        digests.add(message.digest)
    if len(replicas) < cluster.quorums.strong or len(digests) != 1:
        return Refusal("too few replicas in the checkpoint certificate")
    return digests.pop()


def check_prepared(
    certificate: PreparedCertificate, cluster: Cluster, authenticator: Authenticator
) -> Refusal | PrePrepare:
    """The PRE-PREPARE that this proves to be prepared (an element of P, 4.4).

    It holds if the PRE-PREPARE is its view's primary's, and it has just `prepares` PREPAREs, of
    distinct backups, with the same view, number and digest.
    """
    if len(certificate.prepares) < cluster.quorums.prepares:
        return Refusal("too few backups in a prepared certificate")
    if len(certificate.prepares) > cluster.quorums.prepares:
        return Refusal("a prepared certificate with more PREPAREs than it needs")
    pre_prepare = authenticator.read(certificate.pre_prepare)
    if not isinstance(pre_prepare, PrePrepare):
        return Refusal("a prepared certificate without a PRE-PREPARE")
    primary = cluster.primary(pre_prepare.view)
    if pre_prepare.replica != primary:
        return Refusal("a prepared certificate with a PRE-PREPARE that is not the primary's")
    if authenticator.check(certificate.pre_prepare, pre_prepare):
        return Refusal("a signature in a prepared certificate does not hold")
    backups: set[int] = set()
    for signed in certificate.prepares:
        prepare = authenticator.read(signed)
        if not isinstance(prepare, Prepare) or prepare.replica == primary:
            return Refusal("a prepared certificate holds something other than PREPAREs of backups")
        if prepare.replica in backups:
            return Refusal("a prepared certificate holds a backup twice")
        same = (
            prepare.view == pre_prepare.view
            and prepare.sequence == pre_prepare.sequence
            and prepare.digest == pre_prepare.digest
        )
        if not same:
            return Refusal("a prepared certificate whose messages are about different things")
        if authenticator.check(signed, prepare):
            return Refusal("a signature in a prepared certificate does not hold")
        backups.add(prepare.replica)
    return pre_prepare


def check_decided(
    record: Executed, cluster: Cluster, authenticator: Authenticator
) -> Refusal | None:
    """Whether `strong` COMMITs of distinct replicas, of one view, decided what was executed."""
    replicas: set[int] = set()
    views: set[int] = set()
    for signed in record.commits:
        commit = authenticator.read(signed)
        if not isinstance(commit, Commit):
            return Refusal("the certificate holds something other than COMMITs")
        if (commit.sequence, commit.digest) != (record.sequence, record.digest):
            return Refusal("a COMMIT about something else")
        if authenticator.check(signed, commit):
            return Refusal("a signature of a COMMIT does not hold")
        replicas.add(commit.replica)
        views.add(commit.view)
    if len(views) != 1 or len(replicas) < cluster.quorums.strong:
        return Refusal("too few COMMITs of one view")
    return None


class CheckedViewChange(msgspec.Struct, frozen=True):
    """A VIEW-CHANGE whose every certificate holds, and what it proves.

    prepared: (sequence, view, digest) of each element of P.
    """

    message: ViewChange
    signed: Signed
    prepared: tuple[tuple[int, int, bytes], ...]


def check_view_change(
    message: ViewChange, signed: Signed, cluster: Cluster, *, authenticator: Authenticator
) -> Refusal | CheckedViewChange:
    """A VIEW-CHANGE, accepted if (4.4): the signature holds; C proves its stable checkpoint; each
    element of P is a prepared certificate of an earlier view, for one number each, in order,
    above the checkpoint and within the window.
    """
    if refusal := authenticator.check(signed, message):
        return refusal
    if message.stable < cluster.begins_after:
        return Refusal("a stable checkpoint from before this epoch")
    if message.stable == cluster.begins_after:
        if message.certificate:
            return Refusal("a certificate for the genesis")
    else:
        proved = check_stable(
            message.certificate, message.stable, cluster, authenticator=authenticator
        )
        if isinstance(proved, Refusal):
            return proved
    prepared: list[tuple[int, int, bytes]] = []
    last = message.stable
    for certificate in message.prepared:
        pre_prepare = check_prepared(certificate, cluster, authenticator)
        if isinstance(pre_prepare, Refusal):
            return pre_prepare
        if pre_prepare.view >= message.view:
            return Refusal("prepared in a view that is not earlier")
        if not last < pre_prepare.sequence <= message.stable + cluster.genesis.window:
            return Refusal("prepared numbers out of order or outside the window")
        last = pre_prepare.sequence
        prepared.append((pre_prepare.sequence, pre_prepare.view, pre_prepare.digest))
    return CheckedViewChange(message, signed, tuple(prepared))


class NewViewOrder(msgspec.Struct, frozen=True):
    """What a new view begins with: min-s, and the digest for every number up to max-s (O, 4.4)."""

    sequence_min: int
    digests: tuple[tuple[int, bytes], ...]

    @property
    def sequence_max(self) -> int:
        """max-s: the highest number with a PRE-PREPARE, or min-s where there is none."""
        return self.digests[-1][0] if self.digests else self.sequence_min


def new_view_order(view_changes: Iterable[CheckedViewChange], null: bytes) -> NewViewOrder:
    """Computed by the new primary and, for checking, by every backup: the same pure function.

    min-s is the latest stable checkpoint in V, max-s the highest prepared number in V; every
    number between gets the digest that was prepared in the highest view, else the null request.
    """
    changes = tuple(view_changes)
    sequence_min = max(change.message.stable for change in changes)
    best: dict[int, tuple[int, bytes]] = {}
    for change in changes:
        for sequence, view, digest in change.prepared:
            if sequence > sequence_min and (sequence not in best or view > best[sequence][0]):
                best[sequence] = (view, digest)
    sequence_max = max(best, default=sequence_min)
    return NewViewOrder(
        sequence_min,
        tuple(
            (sequence, best[sequence][1] if sequence in best else null)
            for sequence in range(sequence_min + 1, sequence_max + 1)
        ),
    )
