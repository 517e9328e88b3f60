"""Who agrees with what, in words: a build at a glance."""

from collections.abc import Mapping, Sequence

import msgspec

from ci.executors import STAND_BY
from ci.ledger import caches_text, recorded_caches
from ci.limits import Limits
from ci.operations import Abstain, Ballot, BuildResult, Outcome, ResultKey
from client.views.build_view import BuildStatus, BuildView, stood_by
from client.views.differences import PARTS
from client.views.formats import words
from common.english import counted, plural
from pbft.quorums import Quorums

AGREES = "agrees"
DISSENTS = "dissents"
ABSTAINS = "abstains"
# a ballot, and no verdict that it could agree with
FOUND = "found"
# no ballot, and none is asked for: others build first
STANDS_BY = STAND_BY
# no ballot, while there may be one; and where there will be none
WAITING = "none yet"
NONE = "none"

# How the log of a replica that dissents stands to those of the replicas that agree.
SAME_OUTPUT = "same-output"
OTHER_OUTPUT = "other-output"
_OUTPUT_WORDS = {
    SAME_OUTPUT: "suspect: the same output as those that agree, but another outcome",
    OTHER_OUTPUT: "other output: the build is flaky, or this machine differs",
}

SIGNS = {
    AGREES: "✓",
    DISSENTS: "✗",
    ABSTAINS: "⊘",
    FOUND: "•",
    STANDS_BY: "○",
    WAITING: "…",
    NONE: "-",
}


class Group(msgspec.Struct, frozen=True):
    """Replicas that stand alike. says: what they found; why: what differs in it, or a reason.

    output: of a dissent, SAME_OUTPUT or OTHER_OUTPUT; "" where that is not known.
    """

    stance: str
    replicas: tuple[str, ...]
    says: str
    why: str
    output: str = ""

    @property
    def sign(self) -> str:
        """Beside the word, never instead of it."""
        return SIGNS[self.stance]


class Agreement(msgspec.Struct, frozen=True):
    """text: what the verdict took, or would take. groups: every replica once."""

    text: str
    groups: tuple[Group, ...]


def stance_of(build: BuildView, replica: str, *, is_collected: bool = False) -> str:
    """AGREES and so on, of one replica. is_collected: no ballot is waited for any more."""
    verdict = build.verdict
    ballot = next((ballot for ballot in build.ballots if ballot.replica == replica), None)
    if ballot is not None and ballot.abstains is not None:
        return ABSTAINS
    if verdict is not None and replica in verdict.agreeing:
        return AGREES
    if verdict is not None and replica in verdict.dissenting:
        return DISSENTS
    if ballot is not None:
        return FOUND
    is_cancelled = verdict is not None and verdict.outcome == Outcome.CANCELLED
    if not is_cancelled and _stands_by(build, replica):
        return STANDS_BY
    is_open = build.status in (BuildStatus.QUEUED, BuildStatus.BUILDING, BuildStatus.DECIDED)
    return NONE if is_collected or is_cancelled or not is_open else WAITING


def _stands_by(build: BuildView, replica: str) -> bool:
    row = next((row for row in build.replicas if row.replica == replica), None)
    if row is not None:
        return row.state == STAND_BY
    return build.verdict is not None and stood_by(build.verdict, replica)


def agreement_of(
    build: BuildView,
    cast: Mapping[str, Ballot],
    replicas: Sequence[str],
    *,
    quorums: Quorums,
    limits: Limits,
    is_collected: bool = False,
) -> Agreement:
    """The build at a glance. cast: the ballots that are here, by replica."""
    agreeing = build.verdict.agreeing if build.verdict is not None else ()
    reference = next((cast[name] for name in agreeing if name in cast), None)
    decided = reference.compared if isinstance(reference, BuildResult) else None
    grouped: dict[tuple[str, object, str], list[str]] = {}
    for replica in replicas:
        ballot = cast.get(replica)
        value: object = None
        if isinstance(ballot, BuildResult):
            value = ballot.compared
        elif isinstance(ballot, Abstain):
            value = ballot.reason
        elif build.verdict is not None and replica in agreeing:
            # its ballot is not here yet; the statement names it
            value = decided
        stance = stance_of(build, replica, is_collected=is_collected)
        made_with = ""
        if stance == DISSENTS and isinstance(ballot, BuildResult):
            made_with = caches_text(recorded_caches(ballot))
        grouped.setdefault((stance, value, made_with), []).append(replica)
    order = list(SIGNS)
    groups = [
        _group(stance, value, names, decided=decided, made_with=made_with)
        for (stance, value, made_with), names in grouped.items()
    ]
    groups.sort(key=lambda group: (order.index(group.stance), -len(group.replicas)))
    return Agreement(_text(build, quorums, limits), tuple(groups))


def with_outputs(agreement: Agreement, outputs: Mapping[str, str]) -> Agreement:
    """The same, with those apart who dissent with the same output and with another one. Pure.

    outputs: SAME_OUTPUT or OTHER_OUTPUT, by replica.
    """
    groups = []
    for group in agreement.groups:
        apart: dict[str, list[str]] = {}
        for replica in group.replicas:
            apart.setdefault(outputs.get(replica, ""), []).append(replica)
        for output, names in apart.items():
            why = "; ".join(filter(None, (group.why, _OUTPUT_WORDS.get(output))))
            groups.append(
                msgspec.structs.replace(group, replicas=tuple(names), why=why, output=output)
            )
    return Agreement(agreement.text, tuple(groups))


def _group(
    stance: str, value: object, names: list[str], *, decided: ResultKey | None, made_with: str
) -> Group:
    replicas = tuple(names)
    if isinstance(value, ResultKey):
        why = ""
        if stance == DISSENTS and decided is not None:
            why = "another " + ", ".join(_differing(value, decided))
        return Group(stance, replicas, _says(value), "; ".join(filter(None, (why, made_with))))
    if stance == ABSTAINS:
        return Group(stance, replicas, "could not build", str(value))
    if stance == STANDS_BY:
        return Group(stance, replicas, "need not build", "")
    return Group(stance, replicas, "", "")


def _says(compared: ResultKey) -> str:
    code = compared.exit_code
    return words(compared.outcome) + ("" if code is None else f", exit code {code}")


def _differing(one: ResultKey, other: ResultKey) -> list[str]:
    """In which parts, as people call them. They are not all alike: the two values differ."""
    parts = [name for part, name in PARTS.items() if getattr(one, part) != getattr(other, part)]
    return [*parts, *(["artifacts"] if one.artifacts != other.artifacts else [])]


def _text(build: BuildView, quorums: Quorums, limits: Limits) -> str:
    n = quorums.replicas
    verdict = build.verdict
    if verdict is not None and verdict.threshold is not None:
        agree = plural(len(verdict.agreeing), "agrees", "agree")
        return (
            f"This verdict needed {_equal_findings(verdict.threshold)} of {counted(n, 'replica')}. "
            f"{len(verdict.agreeing)} of {n} {agree} with it."
        )
    strong = n - quorums.faults_max
    weak = quorums.weak
    rule = f"“passed” needs {_equal_findings(strong)} of {counted(n, 'replica')}"
    if n > 1:
        rule += f", anything else {weak}"
    if limits.weak_agreement_allowed:
        rule += " (“passed” too, if the pipeline asks for weak agreement)"
    if verdict is not None and verdict.outcome == Outcome.CANCELLED:
        return "Cancelled: there was no agreement."
    if verdict is not None:
        return f"No agreement: {rule}, and no outcome has as many ballots or can still get them."
    if build.status is BuildStatus.QUEUED or build.status is BuildStatus.BUILDING:
        return f"Not decided yet: {rule}. {len(build.ballots)} of {n} have cast a ballot."
    if build.status is BuildStatus.REFUSED:
        return "The replicas refused to take this build."
    return "No replica was asked for this build."


def _equal_findings(count: int) -> str:
    return "one ballot" if count == 1 else f"{count} equal ballots"
