"""The replicated application under random histories and strange bytes, and its state in parts."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.admission import builds_max
from ci.application import BuildApplication
from ci.ledger import genesis_head, verify_chain
from ci.limits import Limits
from ci.operations import Agreement, Append, Ballot, Delivery, Noop, Outcome
from ci.state_partitions import (
    BUILD_PART_PREFIX,
    CLOSED_PART,
    DELIVERIES_PART,
    JOURNAL_PART,
    LEDGER_PART,
    CorruptState,
    ledger_position,
)
from ci.statement import parse_statement, submitted_build_id
from pbft.ports import Applied
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    FAILED_2,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    PASSED,
    TIMED_OUT,
    World,
    cluster_of,
    decided_build,
    finding,
    reason_of,
    submit_build,
)

WEAK_PASSED = finding(agreement=Agreement.WEAK)
ROOT = Path(__file__).resolve().parents[2]


# --- any bytes, any order -------------------------------------------------------------------------


@given(st.binary(max_size=200), st.sampled_from([GATEWAY, OPERATOR, "replica-0", "stranger"]))
def test_strange_bytes_are_refused_and_change_nothing(data: bytes, client: str) -> None:
    world = World()
    before = world.application.parts()
    applied = world.apply_bytes(client, data)
    if applied.kind == "refused":
        reason_of(applied)
        assert world.application.parts() == before


def test_deeply_nested_bytes_are_refused(world: World) -> None:
    for data in (b"\x91" * 60_000, b"\x81" * 60_000, b"\xff" * 70_000):
        assert reason_of(world.apply_bytes("replica-0", data)) == "malformed operation"


Step = tuple[str, int, int, Ballot]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("submit", "cast", "cast", "cast", "cast", "report"),
                *("cancel", "approve", "append", "restart"),
            ]
        ),
        st.integers(0, 3),  # the build
        st.integers(0, 3),  # the replica
        st.sampled_from(
            [
                PASSED,
                PASSED,
                WEAK_PASSED,
                FAILED,
                FAILED_2,
                TIMED_OUT,
                ABSTAIN,
                finding(commit=None),
            ]
        ),
    ),
    max_size=60,
)


def take(world: World, step: Step) -> Applied:
    """One step of the random histories, whatever the application makes of it."""
    verb, identity, index, ballot = step
    client = (GATEWAY, OTHER_GATEWAY)[(identity + (identity > 1 and index)) % 2]
    # The third build is a delivery's, of both gateways, and waits for approval; so does the fourth.
    delivery = Delivery("github", bytes(32)) if identity == 2 else None
    asked = submit_build(identity, delivery=delivery, needs_approval=identity >= 2)
    build = submitted_build_id(world.cluster.id, client, asked)
    match verb:
        case "submit":
            return world.apply(client, asked)
        case "approve":
            return world.approve(build)
        case "cast":
            return world.cast(build, index, ballot)
        case "report":
            return world.report(build, index)
        case "cancel":
            return world.cancel(build, (GATEWAY, OTHER_GATEWAY, OPERATOR, GATEWAY)[index])
        case "append":
            return world.apply(client, Append(f"{index}"))
        case _:
            return world.apply(client, Noop())


def small_world() -> World:
    limits = Limits(
        open_builds_max=3,
        open_builds_per_client_max=2,
        closing_builds_max=1,
        waiting_builds_per_client_max=1,
        weak_agreement_allowed=True,
    )
    return World(cluster_of(4, limits), limits)


@settings(max_examples=300)
@given(STEPS)
def test_random_histories(steps: list[Step]) -> None:
    """A restored state goes on as the one it was taken from, and all that must hold holds."""
    straight, restarted = small_world(), small_world()
    for step in [("submit", 0, 0, PASSED), ("submit", 1, 0, PASSED), *steps]:
        before = straight.application.parts()
        applied = take(straight, step)
        if step[0] == "restart":
            restarted.restart()
        assert take(restarted, step) == applied
        assert restarted.application.parts() == straight.application.parts()
        if applied.kind == "refused":
            reason_of(applied)
            assert straight.application.parts() == before
    builds = straight.application.open_builds().values()
    assert sum(not build.is_decided and build.is_approved for build in builds) <= 2 * 3
    assert len(builds) <= builds_max(straight.cluster, straight.limits)
    assert all(build.is_approved or not build.ballots for build in builds)
    waiting = [build for build in builds if not build.is_approved]
    for client in (GATEWAY, OTHER_GATEWAY):
        assert sum(build.has_asker(client) for build in waiting) <= 1
    assert sum(build.is_decided for build in builds) <= 1
    assert verify_chain(straight.ledger, genesis_head(straight.cluster.id)) is None
    verdicts = [(entry.build, entry.opened) for entry in straight.verdict_entries()]
    assert len(set(verdicts)) == len(verdicts), "a build has one verdict"
    for entry in straight.verdict_entries():
        view = parse_statement(bytes(entry.statement)).verdict
        if view.outcome is Outcome.PASSED:
            backers = {b.replica for b in entry.ballots if b.outcome == "passed"}
            assert len(backers) >= (2 if view.agreement == "weak" else 3)
            assert len(view.agreeing) == view.threshold
    for late in straight.late_ballots():
        assert (late.build, late.opened) in verdicts


_FIXED_HISTORY = """
import hashlib
from ci.operations import Append
from tests.ci.builders import *
world = World(cluster_of(4))
for identity in range(6):
    build = world.open(identity)
    world.apply(GATEWAY, Append(str(identity)))
    for index, ballot in enumerate([PASSED, FAILED, ABSTAIN, FAILED_2][: identity]):
        world.cast(build, index, ballot)
    world.report(build, 3)
world.cancel(world.open(9), OPERATOR)
digest = hashlib.sha256()
for name, data in world.application.parts().items():
    digest.update(name.encode() + data)
for entry in world.ledger:
    digest.update(entry.body)
print(digest.hexdigest(), len(world.ledger))
"""


def test_the_state_does_not_depend_on_the_hash_seed() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", _FIXED_HISTORY],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(printed) == 1
    assert int(printed.pop().split()[1]) > 6


# --- state ----------------------------------------------------------------------------------------


def busy_world() -> World:
    world = World()
    decided_build(world, 1)
    world.cast(world.open(2), 3, PASSED)
    world.cancel(world.open(3), OPERATOR)
    world.apply(GATEWAY, Append("text"))
    return world


def test_the_state_is_in_named_parts() -> None:
    world = busy_world()
    builds = world.application.open_builds()
    assert list(world.application.parts()) == [
        *sorted(BUILD_PART_PREFIX + build.hex() for build in builds),
        CLOSED_PART,
        DELIVERIES_PART,
        JOURNAL_PART,
        LEDGER_PART,
    ]
    assert len(builds) == 2


def test_parts_of_others_are_left_alone() -> None:
    world = busy_world()
    fresh = world.new_application()
    fresh.restore({"epoch": b"", "client/gateway": b"\xff", **world.application.parts()})
    assert fresh.parts() == world.application.parts()


def test_two_orders_of_opening_leave_one_state() -> None:
    # The same builds, restored in different orders of parts.
    world = busy_world()
    parts = world.application.parts()
    fresh = world.new_application()
    fresh.restore(dict(reversed(parts.items())))
    assert list(fresh.parts().items()) == list(parts.items())
    assert list(fresh.open_builds()) == list(world.application.open_builds())


def refusal_of(application: BuildApplication, parts: dict[str, bytes]) -> str | None:
    """Why these parts cannot be restored; None: they were."""
    try:
        application.restore(parts)
    except CorruptState as error:
        return str(error)
    return None


def test_every_damage_to_a_part_is_one_named_error_or_another_state() -> None:
    world = busy_world()
    parts = world.application.parts()
    for name, data in parts.items():
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 0x81
            fresh = world.new_application()
            first = fresh.parts()
            reason = refusal_of(fresh, {**parts, name: bytes(changed)})
            if reason is None:
                assert fresh.parts() != parts
            else:
                assert reason.startswith((name, CLOSED_PART))
                assert fresh.parts() == first


def test_missing_and_misplaced_parts_are_named() -> None:
    world = busy_world()
    parts = world.application.parts()
    for name in (CLOSED_PART, DELIVERIES_PART, JOURNAL_PART, LEDGER_PART):
        left = {other: data for other, data in parts.items() if other != name}
        with pytest.raises(CorruptState, match=f"{name}: missing"):
            world.new_application().restore(left)
    build = next(data for name, data in parts.items() if name.startswith(BUILD_PART_PREFIX))
    misplaced = {**parts, BUILD_PART_PREFIX + "00" * 32: build}
    with pytest.raises(CorruptState, match="not the name"):
        world.new_application().restore(misplaced)


def test_a_part_has_one_encoding() -> None:
    world = busy_world()
    parts = world.application.parts()
    length = world.application.ledger_index
    in_nine_bytes = b"\xcf" + length.to_bytes(8, "big")
    longer = parts[LEDGER_PART].replace(bytes([length]), in_nine_bytes, 1)
    with pytest.raises(CorruptState, match=f"{LEDGER_PART}: not its one encoding"):
        world.new_application().restore({**parts, LEDGER_PART: longer})


def test_a_build_cannot_be_open_and_closed_or_closed_twice() -> None:
    world = busy_world()
    parts = world.application.parts()
    build = next(iter(world.application.open_builds()))
    for closed in ([build], [b"x" * 32, b"x" * 32]):
        with pytest.raises(CorruptState, match="there twice, or open"):
            world.new_application().restore({**parts, CLOSED_PART: msgspec.msgpack.encode(closed)})


def test_where_the_ledger_stands_is_read_from_the_parts(world: World) -> None:
    assert ledger_position(world.application.parts()) == (0, genesis_head(world.cluster.id))
    decided_build(world)
    application = world.application
    parts = application.parts()
    assert ledger_position(parts) == (application.ledger_index, application.ledger_head) != (0, b"")
    for wrong in ({}, {LEDGER_PART: b"?"}, {LEDGER_PART: msgspec.msgpack.encode((-1, bytes(32)))}):
        with pytest.raises(CorruptState, match=LEDGER_PART):
            ledger_position(wrong)
