"""Who differed from verdicts, and who could not build: told by the ledger, entry by entry. Pure.

A replica that dissents is called dissenting; nothing here makes it faulty.
"""

from collections import deque
from typing import Annotated

import msgspec

from ci.ledger import (
    ABSTAINED,
    AnyEntry,
    LateBallotEntry,
    MalformedEntry,
    RecordedBallot,
    VerdictEntry,
    caches_text,
    decode_entry,
)
from ci.statement import InvalidStatement, dissenters, parse_statement
from client.network.ballot_times import BallotTimes
from common.safe_text import log_text
from pbft.ports import Entry

# Of each replica, the newest are told one by one, the others only counted.
TOLD_MAX = 8
# What "lately" means, in verdicts.
RECENT_VERDICTS = 20
REASON_CHARACTERS_MAX = 200
# A late ballot is compared with the logs of the verdict it comes after, of so many verdicts.
LOGS_KEPT = 256

_Found = tuple[str, int | None]


class Told(msgspec.Struct, frozen=True):
    """One ballot that differed from a verdict, or an abstention.

    build: its id (hex). found: the outcome and exit code, with the caches that its build used; or
    the reason, in its words.
    entry: its index in the ledger. verdicts: how many there were by then. has_same_log: the log
    is, byte for byte, that of a replica on the verdict's side, and the outcome is another one.
    """

    build: str
    abstained: bool
    found: str
    entry: int
    verdicts: int
    has_same_log: bool = False


class DissentView(msgspec.Struct, frozen=True):
    """One replica's history."""

    dissents: Annotated[
        int, msgspec.Meta(description="in the whole ledger, as far as it is checked")
    ] = 0
    suspect_dissents: Annotated[
        int,
        msgspec.Meta(
            description="of the dissents, those with another outcome and the log of a replica on "
            "the verdict's side"
        ),
    ] = 0
    abstentions: Annotated[int, msgspec.Meta(description="likewise")] = 0
    recent_dissents: Annotated[int, msgspec.Meta(description="among the newest verdicts")] = 0
    recent_abstentions: Annotated[int, msgspec.Meta(description="likewise")] = 0
    recent_verdicts: Annotated[
        int, msgspec.Meta(description="how many the newest verdicts are")
    ] = 0
    newest: Annotated[
        tuple[Told, ...], msgspec.Meta(description="some of both, the newest first")
    ] = ()


class DissentHistory:
    """Counts as entries are fed to it, in their order."""

    def __init__(self) -> None:
        self.verdicts = 0
        self._counts: dict[tuple[str, bool], int] = {}
        self._suspect: dict[str, int] = {}
        # What replicas on the verdict's side logged, and found, by build.
        self._agreed: dict[str, frozenset[tuple[str, _Found]]] = {}
        self._newest: dict[str, deque[Told]] = {}
        # When each of the recent ones was, in verdicts; at most one per verdict and replica.
        self._recent: dict[tuple[str, bool], deque[int]] = {}
        self.times = BallotTimes()

    def copy(self) -> "DissentHistory":
        """One that goes its own way from here."""
        other = DissentHistory()
        other.verdicts = self.verdicts
        other._counts = dict(self._counts)
        other._suspect = dict(self._suspect)
        other._agreed = dict(self._agreed)
        other._newest = {name: told.copy() for name, told in self._newest.items()}
        other._recent = {key: recent.copy() for key, recent in self._recent.items()}
        other.times = self.times.copy()
        return other

    def feed(self, entry: Entry) -> AnyEntry | None:
        """Take in the next entry, and give what it says. None: this version cannot read it."""
        try:
            body = decode_entry(entry.body)
            dissenting = dissenters(body)
        except (MalformedEntry, InvalidStatement):
            return None
        if isinstance(body, VerdictEntry):
            self.verdicts += 1
            self._keep_agreed(body, dissenting)
            agreeing = parse_statement(bytes(body.statement)).verdict.agreeing
            self.times.note_verdict(body.build, agreeing, body.ballots)
        for ballot in _ballots(body):
            assert isinstance(body, VerdictEntry | LateBallotEntry), "it has ballots"
            self.times.note_ballot(body.build, ballot)
            if ballot.outcome == ABSTAINED or ballot.replica in dissenting:
                self._note(body.build, ballot, entry.index)
        return body

    def of(self, replica: str) -> DissentView:
        """What there is about one replica."""
        return DissentView(
            dissents=self._counts.get((replica, False), 0),
            suspect_dissents=self._suspect.get(replica, 0),
            abstentions=self._counts.get((replica, True), 0),
            recent_dissents=self._recently(replica, abstained=False),
            recent_abstentions=self._recently(replica, abstained=True),
            recent_verdicts=min(self.verdicts, RECENT_VERDICTS),
            newest=tuple(reversed(self._newest.get(replica, ()))),
        )

    def _keep_agreed(self, entry: VerdictEntry, dissenting: frozenset[str]) -> None:
        self._agreed[entry.build] = frozenset(
            (ballot.log_sha256, (ballot.outcome, ballot.exit_code))
            for ballot in entry.ballots
            if ballot.log_sha256 is not None and ballot.replica not in dissenting
        )
        if len(self._agreed) > LOGS_KEPT:
            del self._agreed[next(iter(self._agreed))]

    def _has_same_log(self, build: str, ballot: RecordedBallot) -> bool:
        return any(
            log == ballot.log_sha256 and found != (ballot.outcome, ballot.exit_code)
            for log, found in self._agreed.get(build, ())
        )

    def _note(self, build: str, ballot: RecordedBallot, index: int) -> None:
        abstained = ballot.outcome == ABSTAINED
        code = "" if ballot.exit_code is None else f" {ballot.exit_code}"
        found = (ballot.reason or "") if abstained else f"{ballot.outcome}{code}"
        found = ", ".join(filter(None, (found, caches_text(ballot.caches))))
        has_same_log = not abstained and self._has_same_log(build, ballot)
        if has_same_log:
            self._suspect[ballot.replica] = self._suspect.get(ballot.replica, 0) + 1
        told = Told(
            build,
            abstained,
            log_text(found, REASON_CHARACTERS_MAX),
            index,
            self.verdicts,
            has_same_log,
        )
        key = (ballot.replica, abstained)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._newest.setdefault(ballot.replica, deque(maxlen=TOLD_MAX)).append(told)
        self._recent.setdefault(key, deque(maxlen=RECENT_VERDICTS)).append(self.verdicts)

    def _recently(self, replica: str, *, abstained: bool) -> int:
        since = self.verdicts - RECENT_VERDICTS
        return sum(at > since for at in self._recent.get((replica, abstained), ()))


def _ballots(body: AnyEntry) -> tuple[RecordedBallot, ...]:
    match body:
        case VerdictEntry():
            return body.ballots
        case LateBallotEntry():
            return (body.ballot,)
        case _:
            return ()
