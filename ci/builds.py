"""One build that is undecided, or decided and still taking late ballots: its replicated state.

A build is (id, opening sequence): an id that was forgotten may open again, under another
sequence number. An OpenBuild is never changed, only replaced.
"""

import re
from collections.abc import Mapping

import msgspec

from ci.artifact_rules import artifacts_refusal
from ci.case_reports import cases_refusal
from ci.limits import InvalidLimits, Limits, read_limits
from ci.operations import (
    CHECKOUT_FAILED_EXIT_CODE,
    FINDING_OUTCOMES,
    TESTED_OUTCOMES,
    Abstain,
    Ballot,
    BuildId,
    CommitHex,
    Delivery,
    Event,
    FullRef,
    Outcome,
    PageUrl,
    PersonName,
    ResultKey,
    ResultWithTests,
    ScheduleName,
    ballot_fields,
)
from ci.verdict import Verdict
from pbft.messages import Digest

# A registry digest may carry the image's name (at most 255 characters) before its "@sha256:...";
# visible ASCII keeps the statement, which repeats it, small and plain.
_IMAGE_DIGEST = re.compile(r"[!-~]{1,512}")


# of an OpenBuild: those before `limits`
_FIRST_FIELDS = 18


class MalformedBuild(ValueError):
    """Bytes that are not the one encoding of an OpenBuild."""


class Requester(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who waits for the verdict: the request that is answered with it."""

    client: str
    timestamp: int
    request_digest: Digest


class OpenBuild(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The state of one build between its opening and its closing."""

    id: BuildId
    # the sequence number of the request that opened it
    opened: int
    # of the request that opened it
    request_digest: Digest
    repository: str
    branch: str
    commit: CommitHex | None
    # who is told the verdict, in the order of asking
    askers: tuple[Requester, ...]
    # by replica, in their order; one voice is one vote by construction
    ballots: Mapping[str, Ballot] = {}
    # the replicas that reported that the deadline passed. Before the verdict: the build is overdue.
    # After it (they start anew): no late ballot need be waited for
    reports: tuple[str, ...] = ()
    # None while undecided
    verdict: Verdict | None = None
    # the index of its ledger entry; 0 while undecided
    verdict_index: int = 0
    # the statement's bytes; empty while undecided
    statement: bytes = b""
    # event, ref, delivery, public_url, schedule, is_cold and person are as in the request that
    # opened it
    event: Event = Event.PUSH
    ref: FullRef | None = None
    delivery: Delivery | None = None
    # False while it waits for an operator; then no replica owes anything on it
    is_approved: bool = True
    public_url: PageUrl | None = None
    # who builds first, in the order drawn (ci.executors); empty: every replica
    executors: tuple[str, ...] = ()
    # the limits that it was opened under, encoded; empty: those of the genesis
    limits: bytes = b""
    schedule: ScheduleName | None = None
    is_cold: bool = False
    person: PersonName | None = None

    @property
    def is_decided(self) -> bool:
        """Is there a verdict, so that further ballots change nothing?"""
        return self.verdict is not None

    def has_asker(self, client: str) -> bool:
        """Did this client ask for this build, and not withdraw?"""
        return any(asker.client == client for asker in self.askers)

    def with_asker(self, asker: Requester) -> "OpenBuild":
        """This build with one more asker."""
        return msgspec.structs.replace(self, askers=(*self.askers, asker))

    def without_asker(self, client: str) -> "OpenBuild":
        """This build without the askings of that client."""
        askers = tuple(asker for asker in self.askers if asker.client != client)
        return msgspec.structs.replace(self, askers=askers)

    def with_approval(self) -> "OpenBuild":
        """This build, approved by an operator."""
        assert not self.is_approved
        return msgspec.structs.replace(self, is_approved=True)

    def with_ballot(self, replica: str, ballot: Ballot) -> "OpenBuild":
        """This build with the first ballot of that replica."""
        assert replica not in self.ballots
        return msgspec.structs.replace(self, ballots={**self.ballots, replica: ballot})

    def with_report(self, replica: str) -> "OpenBuild":
        """This build with the first deadline report of that replica."""
        assert replica not in self.reports
        return msgspec.structs.replace(self, reports=(*self.reports, replica))

    def with_verdict(self, verdict: Verdict, verdict_index: int, statement: bytes) -> "OpenBuild":
        """This build, decided."""
        assert self.verdict is None
        return msgspec.structs.replace(
            self, verdict=verdict, verdict_index=verdict_index, statement=statement, reports=()
        )

    def ballot_refusal(self, ballot: Ballot, limits: Limits) -> str | None:
        """Why this ballot cannot count for this build; None: it can."""
        if isinstance(ballot, Abstain):
            return None
        compared = ballot.compared
        if compared.outcome not in FINDING_OUTCOMES:
            return f"{compared.outcome} is no finding of a replica"
        if not _has_fitting_exit_code(compared):
            return f"exit code {compared.exit_code} does not go with {compared.outcome}"
        if self.commit is not None and compared.commit != self.commit:
            return "the finding is about another commit than the request"
        if compared.commit is None and compared.outcome is not Outcome.CHECKOUT_FAILED:
            return f"{compared.outcome} without a commit"
        if reason := _images_refusal(compared):
            return reason
        if reason := _steps_refusal(compared):
            return reason
        if compared.artifacts and compared.outcome is not Outcome.PASSED:
            return f"{compared.outcome} with artifacts"
        if reason := artifacts_refusal(compared.artifacts, limits):
            return reason
        return _cases_refusal(ballot) if isinstance(ballot, ResultWithTests) else None


def encode_build(build: OpenBuild) -> bytes:
    """The bytes of a build in the replicated state; equal builds have equal bytes.

    Of the last fields those that say nothing are left out, from the end on: `person`, `is_cold`,
    `schedule`, `limits`. So a build has the bytes that it had before there were those fields.
    Ballots are as `ballot_fields` says.
    """
    ballots = {name: ballot_fields(ballot) for name, ballot in build.ballots.items()}
    fields = [
        ballots if name == "ballots" else getattr(build, name) for name in build.__struct_fields__
    ]
    while len(fields) > _FIRST_FIELDS and not fields[-1]:
        fields.pop()
    return msgspec.msgpack.encode(fields)


def decode_build(data: bytes) -> OpenBuild:
    """The inverse of encode_build. Raises MalformedBuild."""
    try:
        build = msgspec.msgpack.decode(data, type=OpenBuild)
        if build.limits:
            read_limits(build.limits)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidLimits) as error:
        raise MalformedBuild(str(error)) from error
    if encode_build(build) != data:
        raise MalformedBuild("not the one encoding of this build")
    return build


def _images_refusal(compared: ResultKey) -> str | None:
    """Why these cannot be the images of a finding; None: they can.

    One set of images has one encoding, so that equal findings count together.
    """
    if isinstance(compared.image_digest, str):
        if not _IMAGE_DIGEST.fullmatch(compared.image_digest):
            return "the image digest is not 1 to 512 visible ASCII characters"
        return None
    names = [image.name for image in compared.images]
    if names != sorted(set(names)):
        return "the images are not sorted by name, each name once"
    if names and compared.outcome not in TESTED_OUTCOMES:
        return f"{compared.outcome} with images"
    return None


def _steps_refusal(compared: ResultKey) -> str | None:
    """Why this outcome cannot be that of these steps; None: it can.

    What was tested was said by a pipeline file or a Dockerfile, which has no steps; where no step
    is wanted nothing was run, and only there.
    """
    outcome, steps = compared.outcome, compared.steps
    if outcome in TESTED_OUTCOMES and compared.pipeline_sha256 is None:
        return f"{outcome} without a pipeline file"
    is_skipped = bool(steps) and not any(step.is_wanted for step in steps)
    if is_skipped is not (outcome is Outcome.SKIPPED):
        return f"{outcome} with {'no' if is_skipped else 'a'} step that is wanted"
    return None


def _cases_refusal(ballot: ResultWithTests) -> str | None:
    outcome = ballot.compared.outcome
    if outcome not in TESTED_OUTCOMES:
        return f"{outcome} with test cases"
    return cases_refusal(ballot)


def _has_fitting_exit_code(compared: ResultKey) -> bool:
    match compared.outcome:
        case Outcome.PASSED:
            return compared.exit_code == 0
        case Outcome.FAILED:
            return compared.exit_code is not None and compared.exit_code != 0
        case Outcome.CHECKOUT_FAILED:
            return compared.exit_code == CHECKOUT_FAILED_EXIT_CODE
        case _:
            return compared.exit_code is None
