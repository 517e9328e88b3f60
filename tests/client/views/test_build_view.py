"""build_view: what is shown follows from signed ballots and the accepted statement alone."""

import msgspec
import pytest

from ci.operations import Abstain, Ballot, CastBallot, Outcome, encode_operation
from client.storage.archive import BallotRecord, BuildRecord, ReplyRecord, StateRecord
from client.views.build_view import (
    BuildStatus,
    accepted_verdict,
    build_view,
    checked_ballot,
    iso_time,
)
from common.configuration.keys import verify
from pbft.authentication import Authenticator, Identity
from pbft.client import make_request
from pbft.codec import decode_signed, encode_signed
from pbft.genesis import Cluster
from tests.ci.builders import COMMIT, FAILED, PASSED, World, artifact, finding
from tests.client.running_network import key_of

RECORD = BuildRecord(
    number=1,
    build=bytes(32),
    repository="r",
    branch="b",
    commit=COMMIT,
    detail=None,
    refused=None,
    request=None,
    statement=None,
    received_at=0.0,
    resolved_at=None,
    signed_at=None,
    opened_at=None,
    decided_at=None,
    collected=False,
)


def record(**changes: object) -> BuildRecord:
    return msgspec.structs.replace(RECORD, **changes)


def signed_ballot(world: World, index: int, build: bytes, ballot: Ballot, opened: int = 1) -> bytes:
    name = world.replica(index)
    operation = encode_operation(CastBallot(build, opened, ballot))
    return encode_signed(
        make_request(Identity(world.cluster, name, key_of(name).sign), 1, operation)
    )


def decided(ballots: list[Ballot]) -> tuple[World, bytes, bytes, list[BallotRecord]]:
    """A world where the replicas cast these ballots in turn, and the archive of the first build."""
    world = World()
    build = world.open(1)
    records = []
    for index, ballot in enumerate(ballots):
        signed = signed_ballot(world, index, build, ballot)
        records.append(BallotRecord(world.replica(index), signed, index == 0))
        world.cast(build, index, ballot)
    statement = world.find_statement(build)
    assert statement is not None
    return world, build, statement, records


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, BuildStatus.QUEUED),
        ({"signed_at": 1.0}, BuildStatus.QUEUED),
        ({"opened_at": 1.0}, BuildStatus.BUILDING),
        ({"refused": "no"}, BuildStatus.REFUSED),
    ],
)
def test_status(changes: dict[str, object], status: BuildStatus) -> None:
    view = build_view(record(**changes), [], [])
    assert view.status is status
    assert view.verdict is None


def test_a_ballot_that_only_the_statement_names_is_not_called_missing() -> None:
    """It is collected a moment later; until then the replica's last word is older than that."""
    world, build, statement, records = decided([PASSED, FAILED, PASSED, PASSED])
    names = [world.replica(index) for index in range(4)]
    says = [StateRecord(name, "building", 1.0, None) for name in names]
    view = build_view(record(build=build, statement=statement), records[:1], [], states=says)
    assert view.verdict is not None
    assert view.verdict.agreeing == (names[0], names[2], names[3])
    assert [(row.has_ballot, row.seen) for row in view.replicas] == [(True, None)] * 4
    found = [row.state for row in view.replicas]
    assert found == ["found passed 0", "found failed 1", "found passed 0", "found passed 0"]


def test_the_json_has_the_documented_names() -> None:
    _, build, statement, ballots = decided([PASSED] * 3)
    replies = [ReplyRecord("replica-0", True, b"x" * 64)]
    view = build_view(record(build=build, statement=statement), ballots, replies)
    value = msgspec.json.decode(msgspec.json.encode(view))
    names = {
        *("id", "repository", "branch", "commit", "status", "verdict", "ballots", "replies"),
        *("times", "detail", "logs", "replicas", "event", "ref", "author", "differences"),
        *("artifacts", "artifact_differences", "withdrawn", "rebuild_of", "rebuilds"),
        *("schedule", "is_cold", "sender", "commit_details", "request", "requested_by"),
        "needs_approval",
    }
    assert set(value) == names
    assert set(value["verdict"]) == {
        *("outcome", "exit_code", "agreeing", "dissenting", "ledger_index", "threshold"),
        *("executors", "ref", "target", "pipeline_sha256", "steps"),
        *("failed_tests", "failed_test"),
    }
    assert set(value["ballots"][0]) == {
        *("replica", "outcome", "exit_code", "commit", "log_sha256", "abstains"),
        *("log_bytes", "checkout_milliseconds", "build_milliseconds", "caches"),
    }
    assert value["replies"] == [{"replica": "replica-0", "agrees": True, "signed": True}]
    assert value["logs"] == ["replica-0"]


def test_late_ballots_agree_or_dissent() -> None:
    _, build, statement, ballots = decided([FAILED, FAILED, PASSED, FAILED])
    view = build_view(record(build=build, statement=statement), ballots, [])
    assert view.verdict is not None
    assert (view.verdict.outcome, view.verdict.exit_code) == (Outcome.FAILED, 1)
    assert view.verdict.agreeing == ("replica-0", "replica-1", "replica-3")
    assert view.verdict.dissenting == ("replica-2",)


def test_dissent_before_the_verdict_is_shown_without_its_ballot() -> None:
    """The statement itself says who found something else."""
    _, build, statement, _ = decided([PASSED, FAILED, PASSED, PASSED])
    view = build_view(record(build=build, statement=statement), [], [])
    assert view.verdict is not None
    assert view.verdict.agreeing == ("replica-0", "replica-2", "replica-3")
    assert view.verdict.dissenting == ("replica-1",)


def test_another_value_with_the_same_exit_code_is_dissent() -> None:
    other = finding(pipeline_sha256="ef" * 32)
    _, build, statement, ballots = decided([PASSED, PASSED, PASSED, other])
    view = build_view(record(build=build, statement=statement), ballots, [])
    assert view.verdict is not None
    assert view.verdict.dissenting == ("replica-3",)


def test_a_late_ballot_agrees_only_with_the_same_artifacts() -> None:
    """Before the verdict the statement itself says who found what; after it only ballots do."""
    made, other = (finding(artifacts=(artifact("a", content),)) for content in (b"1", b"2"))
    for late, agreeing in ((made, 4), (other, 3)):
        _, build, statement, ballots = decided([made, made, made, late])
        view = build_view(record(build=build, statement=statement), ballots, [])
        assert view.verdict is not None
        assert len(view.verdict.agreeing) == agreeing
        assert view.verdict.dissenting == (() if late is made else ("replica-3",))
        assert [item.path for item in view.artifact_differences] == ["a"] * (4 - agreeing)


def test_who_abstains_neither_agrees_nor_dissents() -> None:
    _, build, statement, ballots = decided([PASSED, PASSED, PASSED, Abstain("no engine")])
    view = build_view(record(build=build, statement=statement), ballots, [])
    assert view.verdict is not None
    assert "replica-3" not in (*view.verdict.agreeing, *view.verdict.dissenting)
    assert view.ballots[3].abstains == "no engine"
    assert view.ballots[3].outcome is None


def test_nobody_agrees_with_a_dispute() -> None:
    values: list[Ballot] = [finding(Outcome.FAILED, code) for code in (1, 2, 3, 4)]
    _, build, statement, ballots = decided(values)
    view = build_view(record(build=build, statement=statement), ballots, [])
    assert view.verdict is not None
    assert view.verdict.outcome == Outcome.DISPUTED
    assert (view.verdict.agreeing, view.verdict.dissenting) == ((), ())
    assert [ballot.exit_code for ballot in view.ballots] == [1, 2, 3, 4]


class TestCheckedBallot:
    """A ballot counts only as what its own replica signed for this very build."""

    def setup_method(self) -> None:
        self.world = World()
        self.authenticator = Authenticator(self.world.cluster, verify)
        self.build = self.world.open(1)

    def check(self, signed: bytes, name: str = "replica-1", opened: int = 1) -> CastBallot | None:
        return checked_ballot(
            signed, name, self.build, opened=opened, authenticator=self.authenticator
        )

    def test_a_right_one(self) -> None:
        cast = self.check(signed_ballot(self.world, 1, self.build, PASSED))
        assert cast is not None
        assert cast.ballot == PASSED

    def test_another_replicas(self) -> None:
        assert self.check(signed_ballot(self.world, 2, self.build, PASSED)) is None

    def test_another_builds(self) -> None:
        assert self.check(signed_ballot(self.world, 1, bytes(32), PASSED)) is None

    def test_another_openings(self) -> None:
        assert self.check(signed_ballot(self.world, 1, self.build, PASSED, opened=2)) is None

    def test_a_wrong_signature(self) -> None:
        signed = decode_signed(signed_ballot(self.world, 1, self.build, PASSED))
        forged = msgspec.structs.replace(signed, signature=bytes(64))
        assert self.check(encode_signed(forged)) is None

    def test_a_relabelled_one(self) -> None:
        signed = decode_signed(signed_ballot(self.world, 2, self.build, PASSED))
        relabelled = msgspec.structs.replace(signed, signer="replica-1")
        assert self.check(encode_signed(relabelled)) is None

    @pytest.mark.parametrize("data", [b"", b"x", bytes(100)])
    def test_nonsense(self, data: bytes) -> None:
        assert self.check(data) is None

    def test_another_operation(self) -> None:
        name = "replica-1"
        other = make_request(Identity(self.world.cluster, name, key_of(name).sign), 1, b"nothing")
        assert self.check(encode_signed(other)) is None


def test_a_verdict_counts_for_its_own_build_and_cluster_only() -> None:
    world, build, statement, _ = decided([PASSED] * 3)
    assert accepted_verdict(statement, world.cluster, build) is not None
    assert accepted_verdict(statement, world.cluster, bytes(32)) is None
    other = Cluster(msgspec.structs.replace(world.cluster.genesis, application=b"other"))
    assert accepted_verdict(statement, other, build) is None
    assert accepted_verdict(b"{}", world.cluster, build) is None


def test_times_are_utc_with_milliseconds() -> None:
    assert iso_time(0.0) == "1970-01-01T00:00:00.000Z"
    assert iso_time(1_000_000_000.1234) == "2001-09-09T01:46:40.123Z"
    assert iso_time(None) is None
