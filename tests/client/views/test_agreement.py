"""client.views.agreement: every replica stands somewhere, and it is said what it took."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.ledger import RecordedCache
from ci.limits import Limits
from ci.operations import Ballot, UsedCache
from client.storage.archive import BallotRecord, StateRecord
from client.views.agreement import SIGNS, Agreement, agreement_of, stance_of
from client.views.build_view import BuildView, build_view
from pbft.quorums import quorums_for
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    FAILED_2,
    PASSED,
    TIMED_OUT,
    World,
    artifact,
    finding,
    with_caches,
)
from tests.client.views.test_build_view import decided, record, signed_ballot

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")
QUORUMS = quorums_for(4)
LIMITS = Limits()
OTHER_COMMIT = finding(commit="d" * 40)


def glance(
    ballots: list[Ballot], limits: Limits = LIMITS, **changes: object
) -> tuple[BuildView, Agreement]:
    """The agreement after these ballots, in this order, of a network of four."""
    world = World()
    build = world.open(1)
    records = []
    for index, ballot in enumerate(ballots):
        signed = signed_ballot(world, index, build, ballot)
        records.append(BallotRecord(world.replica(index), signed, True))
        world.cast(build, index, ballot)
    archived = record(build=build, statement=world.find_statement(build), opened_at=1.0, **changes)
    view = build_view(archived, records, [])
    cast = dict(zip(NAMES, ballots, strict=False))
    is_collected = archived.collected
    return view, agreement_of(
        view, cast, NAMES, quorums=QUORUMS, limits=limits, is_collected=is_collected
    )


def lines(agreement: Agreement) -> list[tuple[str, str, str, str]]:
    return [
        (group.stance, ", ".join(group.replicas), group.says, group.why)
        for group in agreement.groups
    ]


def test_a_green_build_with_a_dissenter_and_one_that_abstains() -> None:
    _, agreement = glance([PASSED, FAILED, PASSED, PASSED])
    assert agreement.text == (
        "This verdict needed 3 equal ballots of 4 replicas. 3 of 4 agree with it."
    )
    assert lines(agreement) == [
        ("agrees", "replica-0, replica-2, replica-3", "passed, exit code 0", ""),
        ("dissents", "replica-1", "failed, exit code 1", "another outcome, exit code"),
    ]
    _, agreement = glance([ABSTAIN, PASSED, PASSED, PASSED])
    assert lines(agreement)[1] == ("abstains", "replica-0", "could not build", "no engine")


def test_a_red_build_takes_fewer() -> None:
    _, agreement = glance([FAILED, FAILED])
    assert agreement.text == (
        "This verdict needed 2 equal ballots of 4 replicas. 2 of 4 agree with it."
    )
    assert lines(agreement)[1] == ("none yet", "replica-2, replica-3", "", "")
    _, agreement = glance([FAILED, FAILED], collected=True)
    assert lines(agreement)[1] == ("none", "replica-2, replica-3", "", ""), "no longer waited for"


def test_those_who_dissent_differently_stand_apart() -> None:
    made = [finding(artifacts=(artifact("a", content),)) for content in (b"1", b"2")]
    _, agreement = glance([TIMED_OUT, TIMED_OUT, *made])
    assert [line[:2] for line in lines(agreement)] == [
        ("agrees", "replica-0, replica-1"),
        ("dissents", "replica-2"),
        ("dissents", "replica-3"),
    ]
    _, agreement = glance([PASSED, PASSED, PASSED, OTHER_COMMIT])
    assert lines(agreement)[1][3] == "another commit"


def test_a_dissent_names_the_cache_that_it_was_made_with() -> None:
    used = UsedCache("venv", bytes.fromhex("ab" * 32))
    warm, cold = with_caches(FAILED, used), FAILED
    # what agrees does not say it
    view, agreement = glance([with_caches(PASSED, used), warm, PASSED, PASSED])
    assert lines(agreement)[0][-1] == ""
    said = "another outcome, exit code; with a cache from build abababababab"
    assert lines(agreement)[1] == ("dissents", "replica-1", "failed, exit code 1", said)
    assert [ballot.caches for ballot in view.ballots[:3]] == [
        (RecordedCache("venv", "ab" * 32),),
        (RecordedCache("venv", "ab" * 32),),
        (),
    ]
    states = [StateRecord(name, None, None, None) for name in NAMES]
    _, build, statement, records = decided([with_caches(PASSED, used), warm, PASSED, PASSED])
    view = build_view(record(build=build, statement=statement), records, [], states=states)
    assert [row.state for row in view.replicas[:3]] == [
        "found passed 0",
        "found failed 1, with a cache from build abababababab",
        "found passed 0",
    ]
    # who dissents without caches stands apart
    _, agreement = glance([FAILED_2, FAILED_2, warm, cold])
    assert [(line[1], "cache" in line[3]) for line in lines(agreement)[1:]] == [
        ("replica-2", True),
        ("replica-3", False),
    ]


def test_no_agreement() -> None:
    _, agreement = glance([PASSED, PASSED, FAILED, FAILED_2])
    assert agreement.text.startswith("No agreement: “passed” needs 3 equal ballots of 4")
    assert [line[0] for line in lines(agreement)] == ["found"] * 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "Not decided yet: “passed” needs 3 equal ballots of 4 replicas, anything else 2. "),
        ({"refused": "no"}, "The replicas refused to take this build."),
        ({"skipped": "[skip ci]"}, "No replica was asked for this build."),
        ({"withdrawn": "no", "is_never_asked": True}, "No replica was asked for this build."),
    ],
)
def test_before_and_without_a_verdict(changes: dict[str, object], text: str) -> None:
    _, agreement = glance([], LIMITS, **changes)
    assert agreement.text.startswith(text)
    expected = "none" if changes else "none yet"
    assert lines(agreement) == [(expected, ", ".join(NAMES), "", "")]


def test_weak_agreement_is_told_where_it_is_allowed() -> None:
    limits = msgspec.structs.replace(LIMITS, weak_agreement_allowed=True)
    _, agreement = glance([PASSED], limits)
    assert "anything else 2 (“passed” too, if the pipeline asks for weak" in agreement.text


@given(
    st.lists(
        st.sampled_from([PASSED, FAILED, FAILED_2, TIMED_OUT, ABSTAIN, OTHER_COMMIT]), max_size=4
    )
)
def test_every_replica_is_in_one_group_of_its_stance(ballots: list[Ballot]) -> None:
    view, agreement = glance(ballots)
    told = [name for group in agreement.groups for name in group.replicas]
    assert sorted(told) == sorted(NAMES)
    for group in agreement.groups:
        assert {stance_of(view, name) for name in group.replicas} == {group.stance}
        assert group.sign == SIGNS[group.stance]


def test_a_network_of_one_replica() -> None:
    view = build_view(record(), [], [])
    quorums = quorums_for(1)
    asked = agreement_of(view, {}, NAMES[:1], quorums=quorums, limits=LIMITS, is_collected=False)
    assert "“passed” needs one ballot of 1 replica." in asked.text
