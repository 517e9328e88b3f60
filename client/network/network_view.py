"""The replicas as API and page show them, and in a sentence who is down or disagrees."""

import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from client.network.ballot_times import ReplicaTimes
from client.network.dissent import DissentView
from client.network.ledger_check import LedgerState
from client.network.node_status import NodeStatus, PeerStatus
from client.network.proofs import ProofView
from common.clocks import in_words, is_wrong, own_error
from common.english import counted, plural

# Replicas send each other their status every second: after this long without one, the other is
# more than busy.
HEARD_SECONDS_MAX = 10.0
STANDING = ("normal", "behind")


class Reach(enum.StrEnum):
    """Whether the gateway gets an answer. `late`: not just now, and the link to it stands."""

    UP = "up"
    LATE = "late"
    DOWN = "down"
    UNKNOWN = "unknown"


class HeardBy(msgspec.Struct, frozen=True):
    """What another replica says of hearing this one; seconds: null, it never did."""

    replica: str
    connected: bool
    seconds: float | None

    @property
    def is_heard(self) -> bool:
        """Lately, that is."""
        return self.seconds is not None and self.seconds <= HEARD_SECONDS_MAX


class ReplicaState(msgspec.Struct, frozen=True):
    """One replica."""

    replica: str
    connected: Annotated[bool, msgspec.Meta(description="whether the gateway's link to it stands")]
    reach: Reach
    since: Annotated[
        str | None,
        msgspec.Meta(
            description="since when `reach` holds, or its last answer if it gives none; null:"
            " since this gateway started, or longer (ISO 8601, UTC)"
        ),
    ]
    heard: Annotated[str | None, msgspec.Meta(description="when it answered last")]
    status: Annotated[
        NodeStatus | None, msgspec.Meta(description="as it reports it; null: no answer in time")
    ]
    error: Annotated[str | None, msgspec.Meta(description="why there is no answer")]
    ahead_seconds: Annotated[
        float | None,
        msgspec.Meta(
            description="how far its clock is ahead of the gateway's; null: it does not say"
        ),
    ]
    last: Annotated[
        NodeStatus | None, msgspec.Meta(description="its last status, of now or earlier")
    ]
    heard_by: Annotated[
        tuple[HeardBy, ...], msgspec.Meta(description="what the others report of it")
    ]
    dissent: DissentView
    times: ReplicaTimes
    proofs: Annotated[tuple[ProofView, ...], msgspec.Meta(description="some of them, checked here")]
    proofs_count: Annotated[int, msgspec.Meta(description="how many there are")]
    ledger_differs_at: Annotated[
        int | None,
        msgspec.Meta(description="the entry at which it gave another head than f+1 others"),
    ]


class NetworkView(msgspec.Struct, frozen=True):
    """GET /api/v1/network."""

    cluster: str
    epoch: Annotated[int, msgspec.Meta(description="how often the members had changed by then")]
    next_epoch: Annotated[
        str | None,
        msgspec.Meta(
            description="why this gateway has not begun the next epoch; null: it is not to"
        ),
    ]
    faults_max: int
    needed: int
    level: Annotated[str, msgspec.Meta(description="good, warning or bad")]
    sentence: Annotated[str, msgspec.Meta(description="who is down or disagrees")]
    consequence: Annotated[str, msgspec.Meta(description="what that means for builds")]
    since: Annotated[str, msgspec.Meta(description="when this gateway started to look")]
    replicas: tuple[ReplicaState, ...]
    ledger: LedgerState


def heard_by(replica: str, statuses: Mapping[str, NodeStatus]) -> tuple[HeardBy, ...]:
    """What those that answer say of hearing that one."""
    found = []
    for name, status in statuses.items():
        peer: PeerStatus | None = status.peers.get(replica)
        if name != replica and peer is not None:
            found.append(HeardBy(name, peer.connected, peer.last_heard_seconds))
    return tuple(found)


def summary(
    replicas: Sequence[ReplicaState], needed: int, alarm: str | None, *, now: str
) -> tuple[str, str]:
    """(level, sentence): who is down, disagrees or misbehaves, the gravest first.

    now: ISO 8601, UTC, as `iso_seconds` writes it.
    """
    bad = [*_proved(replicas), *_unreachable(replicas, now), *_differing(replicas)]
    if alarm is not None:
        bad.insert(0, alarm)
    warnings = [*_standing(replicas), *_clocks(replicas), *_injected(replicas)]
    warnings += _dissenting(replicas)
    clauses = [*bad, *warnings]
    if not clauses:
        if any(replica.reach is Reach.UNKNOWN for replica in replicas):
            return "warning", "The replicas are being asked."
        if len(replicas) == 1:
            return "good", "The only replica answers and is in step."
        return "good", f"All {len(replicas)} replicas answer, are in step, and agree."
    is_grave = bool(bad) or _answering(replicas) < needed
    return "bad" if is_grave else "warning", "; ".join(clauses) + "."


def consequence(replicas: Sequence[ReplicaState], needed: int) -> str:
    """What it means for builds that so many answer, and that some of them misbehave."""
    answering = _answering(replicas)
    sound = sum(_is_sound(replica) for replica in replicas)
    if len(replicas) == 1:
        return _consequence_of_one(answering, sound)
    takes = f"it takes {needed} of {len(replicas)} replicas"
    if answering < needed:
        return f"Builds wait: {takes}, and {answering} {plural(answering, 'answers', 'answer')}."
    if sound < needed:
        return f"Builds may wait: {takes}, and {sound} {plural(sound, 'is', 'are')} healthy."
    spare = sound - needed
    if spare == 0:
        return f"Builds are decided: {takes}, and exactly that many are healthy."
    return f"Builds are decided, and still would be with {plural(spare, 'one', str(spare))} down."


def _consequence_of_one(answering: int, sound: int) -> str:
    if not answering:
        return "Builds wait: the only replica does not answer."
    if not sound:
        return "Builds may wait: the only replica is not healthy."
    return "The only replica decides builds, and no other replica checks it."


def iso_seconds(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC, to the second."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def time_of_day(at: str, now: str) -> str:
    """A moment (ISO 8601, UTC) as "17:20:03 UTC"; with its date, where `now` is another day."""
    date, time = at[:10], at[11:19]
    return f"{time} UTC" if date == now[:10] else f"{date} {time} UTC"


def _answering(replicas: Sequence[ReplicaState]) -> int:
    return sum(replica.reach in (Reach.UP, Reach.LATE) for replica in replicas)


def _is_sound(replica: ReplicaState) -> bool:
    """It answers, votes, and nothing speaks against it."""
    said = replica.last
    if replica.reach not in (Reach.UP, Reach.LATE) or replica.proofs or said is None:
        return False
    is_voting = said.status in (None, *STANDING, "view_change")
    return is_voting and not said.fault_injection and replica.ledger_differs_at is None


def _proved(replicas: Sequence[ReplicaState]) -> list[str]:
    names = [replica.replica for replica in replicas if replica.proofs]
    is_proved = plural(len(names), "is", "are")
    return [f"{_all(names)} {is_proved} proved to have signed contradictions"] if names else []


def _unreachable(replicas: Sequence[ReplicaState], now: str) -> list[str]:
    down = [replica for replica in replicas if replica.reach is Reach.DOWN]
    since: dict[str | None, list[str]] = {}
    for replica in down:
        since.setdefault(replica.since, []).append(replica.replica)
    clauses = []
    for at, names in since.items():
        when = (
            "since before this gateway started" if at is None else f"since {time_of_day(at, now)}"
        )
        clauses.append(f"{_all(names)} {plural(len(names), 'is', 'are')} down {when}")
    return clauses


def _differing(replicas: Sequence[ReplicaState]) -> list[str]:
    names = [r.replica for r in replicas if r.ledger_differs_at is not None]
    return (
        [f"{_all(names)} {plural(len(names), 'gives', 'give')} another ledger than the others"]
        if names
        else []
    )


def _standing(replicas: Sequence[ReplicaState]) -> list[str]:
    """What those that answer say of where they stand."""
    clauses = []
    without_link = [r.replica for r in replicas if r.reach is Reach.UP and not r.connected]
    if without_link:
        answer = plural(len(without_link), "answers", "answer")
        clauses.append(f"{_all(without_link)} {answer}, but without a link")
    late = [replica.replica for replica in replicas if replica.reach is Reach.LATE]
    if late:
        clauses.append(f"{_all(late)} {plural(len(late), 'answers', 'answer')} late")
    by_status: dict[str, list[str]] = {}
    for replica in replicas:
        said = replica.status
        if said is None:
            continue
        if said.status not in (None, *STANDING):
            by_status.setdefault(str(said.status).replace("_", " "), []).append(replica.replica)
        elif said.behind_by:
            clauses.append(f"{replica.replica} is {counted(said.behind_by, 'number')} behind")
        elif said.ledger_missing:
            missing = counted(said.ledger_missing, "ledger entry", "ledger entries")
            clauses.append(f"{replica.replica} lacks {missing}")
    for status, names in by_status.items():
        clauses.append(f"{_all(names)} {plural(len(names), 'is', 'are')} in status {status}")
    return clauses


def _clocks(replicas: Sequence[ReplicaState]) -> list[str]:
    """Whose clock differs from the middle one of those that answer."""
    ahead = {r.replica: r.ahead_seconds for r in replicas if r.ahead_seconds is not None}
    if not ahead:
        return []
    own = own_error(ahead)
    clauses = [f"this gateway's clock is {in_words(own)}"] if is_wrong(own) else []
    return clauses + [
        f"the clock of {name} is {in_words(seconds + own)}"
        for name, seconds in ahead.items()
        if is_wrong(seconds + own)
    ]


def _injected(replicas: Sequence[ReplicaState]) -> list[str]:
    return [
        f"{r.replica} misbehaves on purpose ({r.status.fault_injection})"
        for r in replicas
        if r.status is not None and r.status.fault_injection
    ]


def _dissenting(replicas: Sequence[ReplicaState]) -> list[str]:
    clauses = []
    for replica in replicas:
        dissent = replica.dissent
        for verb, count, what in (
            ("disagreed with", dissent.recent_dissents, "verdict"),
            ("could not build", dissent.recent_abstentions, "build"),
        ):
            if count:
                newest = _of_the_newest(count, dissent.recent_verdicts, what)
                clauses.append(f"{replica.replica} {verb} {newest}")
    return clauses


def _of_the_newest(count: int, newest: int, what: str) -> str:
    return f"the newest {what}" if newest == 1 else f"{count} of the newest {newest} {what}s"


def _all(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
