"""ci.admission: each client has a share of its own, and all shares fit into a bounded state."""

import msgspec
import pytest

from ci.admission import (
    ANSWER_BYTES,
    ASKING_BYTES,
    ASKINGS_PER_CLIENT_MAX,
    BUILD_BYTES,
    STATE_BYTES_MAX,
    builds_max,
    is_temporary,
    room_refusal,
)
from ci.builds import encode_build
from ci.limits import Limits
from ci.operations import (
    BALLOT_BYTES,
    Abstain,
    Append,
    Ballot,
)
from pbft.client_table import ClientTable, StoredResult
from pbft.genesis import CLIENTS_MAX, Cluster
from pbft.messages import STATE_LEAVES_MAX
from tests.ci.builders import (
    GATEWAY,
    OTHER_GATEWAY,
    World,
    cluster_of,
    largest_result,
    member,
    reason_of,
    reported,
)

LONG_TEXT = "\U0001f99c" * 1024


def with_gateways(count: int, limits: Limits) -> Cluster:
    genesis = cluster_of(4, limits).genesis
    gateways = tuple(member(f"g{number}", "gateway") for number in range(count))
    return Cluster(msgspec.structs.replace(genesis, clients=gateways))


def largest_ballot(number: int) -> Ballot:
    """All that a replica may say of a build that passed, with as many test cases as have room."""
    cases = {f"{index:04}" + '"' * 196: "failed" for index in range(500)}
    return reported(largest_result(number), cases)


def test_a_build_has_no_more_bytes_than_is_reckoned() -> None:
    """With each thing that it may have, as large as may be: one by one, and after the verdict."""
    world = World()

    def size() -> int:
        (build,) = world.application.open_builds().values()
        return len(encode_build(build))

    build = world.open(
        repository="r" * 1024,
        branch="\U0001f99c" * 255,
        ref="refs/heads/" + "\U0001f99c" * 255,
        public_url="https://" + "u" * 248,
    )
    for number in range(ASKINGS_PER_CLIENT_MAX):
        before = size()
        if number:
            world.open(
                repository="r" * 1024,
                branch="\U0001f99c" * 255,
                ref="refs/heads/" + "\U0001f99c" * 255,
            )
            assert size() - before <= ASKING_BYTES + len(GATEWAY)
    for replica in range(2):
        before = size()
        assert world.cast(build, replica, largest_ballot(replica)).kind == "done"
        assert BALLOT_BYTES / 1.3 < size() - before < BALLOT_BYTES
    before = size()
    assert before < BUILD_BYTES + 2 * BALLOT_BYTES
    assert world.cast(build, 2, largest_ballot(2)).kind == "done"
    assert world.application.open_builds()[build].is_decided
    assert BUILD_BYTES / 3 < size() - 3 * BALLOT_BYTES < BUILD_BYTES
    assert len(msgspec.msgpack.encode(Abstain(LONG_TEXT))) < BALLOT_BYTES


def test_what_is_kept_for_a_client_has_no_more_bytes_than_is_reckoned() -> None:
    """Two windows: the last results up to `low_timestamp`, and all above it but one."""
    window = 64
    table = ClientTable(window)
    # the longest answer: the journal's digest and length
    world = World()
    answer = world.apply(GATEWAY, Append("x"))
    result = StoredResult(bytes(32), "x" * 16, bytes(32), answer.result + b"9" * 20)
    for timestamp in (*range(1, window + 1), *range(window + 2, 2 * window + 1)):
        table.record(GATEWAY, timestamp, result)
    (part,) = table.parts().values()
    assert 2 * window * ANSWER_BYTES / 2 < len(part) < 2 * window * ANSWER_BYTES


def test_the_default_rules_have_room_for_large_networks() -> None:
    for replicas in (1, 4, 7, 13, 31):
        assert room_refusal(cluster_of(replicas), Limits()) is None
    assert room_refusal(with_gateways(30, Limits()), Limits()) is None


@pytest.mark.parametrize(
    "limits",
    [
        Limits(waiting_builds_per_client_max=10_000),
        Limits(open_builds_max=10_000),
        Limits(closing_builds_max=10_000),
    ],
)
def test_rules_that_could_make_too_large_a_state_are_refused(limits: Limits) -> None:
    assert "the state could have" in (room_refusal(cluster_of(4, limits), limits) or "")


def test_a_window_of_answers_counts_too() -> None:
    genesis = with_gateways(CLIENTS_MAX, Limits()).genesis
    few = Limits(waiting_builds_per_client_max=1, open_builds_max=1, closing_builds_max=1)
    wide = Cluster(msgspec.structs.replace(genesis, client_window=1000))
    assert "MB of answers" in (room_refusal(wide, few) or "")


def test_whatever_has_room_has_few_enough_leaves() -> None:
    """The leaves of a state go into one message (pbft.messages.StateLeaves)."""
    replicas_max, others = 1024, 5
    builds = STATE_BYTES_MAX // BUILD_BYTES
    assert builds + CLIENTS_MAX + replicas_max + others < STATE_LEAVES_MAX


def test_no_more_is_approved_than_twice_what_may_be_open() -> None:
    limits = Limits(open_builds_max=2, waiting_builds_per_client_max=3)
    world = World(cluster_of(4, limits), limits)
    world.open(0)
    world.open(1, client=OTHER_GATEWAY)
    waiting = [world.open(number, needs_approval=True) for number in (2, 3, 4)]
    assert [world.approve(build).kind for build in waiting[:2]] == ["done", "done"]
    assert reason_of(world.approve(waiting[2])) == "4 builds are open, the most at once"
    assert reason_of(world.submit(5)) == "2 builds are open, the most at once"
    held = len(world.application.open_builds())
    assert held <= builds_max(world.cluster, limits) == 2 * 3 + 2 * 2 + limits.closing_builds_max
    world.cancel(waiting[0], GATEWAY)
    assert world.approve(waiting[2]).kind == "done"


def test_which_refusals_are_temporary() -> None:
    full = World(limits=Limits(open_builds_max=1))
    full.open(1)
    assert is_temporary(full.submit(2).result.decode())
    mine = World(limits=Limits(open_builds_per_client_max=1))
    mine.open(1)
    assert is_temporary(mine.submit(2).result.decode())
    waiting = World(limits=Limits(waiting_builds_per_client_max=1))
    waiting.open(1, needs_approval=True)
    assert is_temporary(waiting.submit(2, needs_approval=True).result.decode())
    approved = World(limits=Limits(open_builds_max=1))
    for number in range(3):
        approved.open(number, needs_approval=True)
    assert [approved.approve(build).kind for build in approved.application.open_builds()][:2] == [
        "done",
        "done",
    ]
    (waits,) = [b for b in approved.application.open_builds().values() if not b.is_approved]
    assert is_temporary(approved.approve(waits.id).result.decode())
    asked = World()
    asked.open(1)
    assert not is_temporary(asked.submit(1, branch="other").result.decode())
    assert not is_temporary(asked.submit(3, client=asked.replica(0)).result.decode())
