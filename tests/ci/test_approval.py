"""A build that needs approval is owed by nobody until an operator approves it."""

from typing import Any

import pytest

from ci.ledger import ApproveEntry, CancelEntry, decode_entry
from ci.limits import Limits
from ci.operations import CastBallot, Delivery, Outcome, ReportDeadline
from ci.statement import parse_statement
from driver.build_scheduler import pending_builds
from pbft.ports import Applied
from tests.ci.builders import (
    FAILED,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    PASSED,
    World,
    cluster_of,
    reason_of,
)


def owed(world: World) -> list[bytes]:
    return [key[0] for key in pending_builds(world.application.open_builds(), "replica-0")]


def test_nobody_owes_a_build_that_waits_and_everybody_one_that_is_approved(world: World) -> None:
    build = world.open(needs_approval=True)
    assert not world.application.open_builds()[build].is_approved
    assert owed(world) == []
    applied = world.approve(build)
    assert applied.kind == "done"
    (entry,) = applied.entries
    assert decode_entry(entry.body) == ApproveEntry(build.hex(), 1, OPERATOR)
    assert owed(world) == [build]
    world.restart()
    assert owed(world) == [build]
    for index in range(3):
        world.cast(build, index, PASSED)
    (verdict,) = world.verdict_entries()
    assert parse_statement(bytes(verdict.statement)).verdict.outcome is Outcome.PASSED


def test_ballots_and_deadlines_on_a_waiting_build_are_refused(world: World) -> None:
    """f + 1 liars together with a slow operator could else decide what nobody may build yet."""
    build = world.open(needs_approval=True)
    opened = world.opened(build)
    for replica in world.cluster.replica_names:
        for operation in (CastBallot(build, opened, FAILED), ReportDeadline(build, opened)):
            assert reason_of(world.apply(replica, operation)) == "no such open build"
    world.approve(build)
    assert world.application.open_builds()[build].reports == ()
    assert world.cast(build, 0, FAILED).kind == "done"
    assert world.report(build, 0).kind == "done"


@pytest.mark.parametrize("client", [GATEWAY, OTHER_GATEWAY, "replica-0", "stranger"])
def test_only_an_operator_approves(world: World, client: str) -> None:
    build = world.open(needs_approval=True)
    assert "takes the role operator" in reason_of(world.approve(build, client))
    assert owed(world) == []


def test_what_does_not_wait_cannot_be_approved(world: World) -> None:
    waits, open_, cancelled = (world.open(1, needs_approval=True), world.open(2), b"?" * 32)
    world.approve(waits)
    for build in (waits, open_, cancelled):
        assert reason_of(world.approve(build)) == "no such build that waits for approval"


def test_asking_again_after_the_approval_changes_nothing(world: World) -> None:
    asked: dict[str, Any] = {"needs_approval": True, "delivery": Delivery("gitea", b"d" * 32)}
    build = world.open(1, **asked)
    world.approve(build)
    assert world.open(2, client=OTHER_GATEWAY, **asked) == build
    assert world.application.open_builds()[build].is_approved


@pytest.mark.parametrize("client", [GATEWAY, OPERATOR])
def test_a_waiting_build_can_be_cancelled(world: World, client: str) -> None:
    build = world.open(needs_approval=True)
    applied = world.cancel(build, client)
    cancel, _ = (decode_entry(entry.body) for entry in applied.entries)
    assert cancel == CancelEntry(build.hex(), 1, client)
    assert [told.client for told in applied.deferred] == [GATEWAY]
    assert build not in world.application.open_builds()
    verdict = parse_statement(world.find_statement(build) or b"").verdict
    assert verdict.outcome is Outcome.CANCELLED
    assert verdict.without_ballot == world.cluster.replica_names
    assert reason_of(world.approve(build)) == "no such build that waits for approval"


def test_waiting_builds_have_a_cap_of_their_own_and_keep_nobody_from_building() -> None:
    limits = Limits(
        open_builds_max=3, open_builds_per_client_max=2, waiting_builds_per_client_max=2
    )
    world = World(cluster_of(4, limits), limits)
    first = world.open(1, needs_approval=True)
    world.open(2, needs_approval=True)
    refused = world.submit(3, needs_approval=True)
    assert reason_of(refused) == "2 builds of this client wait for approval"
    world.open(4, client=OTHER_GATEWAY, needs_approval=True)
    world.open(5)
    world.open(6)
    assert "builds of this client are open" in reason_of(world.submit(7))
    # an operator who approves wants it built, full or not
    assert world.approve(first) == Applied("done", first, entries=(world.ledger[-1],))
    world.open(3, needs_approval=True)
    assert "3 builds are open" in reason_of(world.submit(8, client=OTHER_GATEWAY))


def test_asking_for_a_build_that_waits_counts_as_much_as_opening_it() -> None:
    """Else two gateways have any number wait: one opens, both ask, the first withdraws."""
    limits = Limits(waiting_builds_per_client_max=2)
    world = World(cluster_of(4, limits), limits)

    def asked(number: int) -> dict[str, Any]:
        return {"needs_approval": True, "delivery": Delivery("gitea", b"%032d" % number)}

    refusals = 0
    for number in range(10):
        if world.submit(number, **asked(number)).kind == "refused":
            break
        joined = world.submit(number, client=OTHER_GATEWAY, **asked(number))
        if joined.kind == "refused":
            assert reason_of(joined) == "2 builds of this client wait for approval"
            refusals += 1
        else:
            world.cancel(joined.result, GATEWAY)
    waiting = world.application.open_builds().values()
    assert len(waiting) == 2 * 2
    assert refusals == 2
    for client in (GATEWAY, OTHER_GATEWAY):
        assert sum(build.has_asker(client) for build in waiting) == 2
    # who asked already may ask again, and an approved one is joined as ever
    (first, *_) = waiting
    assert world.submit(0, client=OTHER_GATEWAY, **asked(0)).result == first.id
    world.approve(first.id)
    assert world.submit(0, **asked(0)).result == first.id
