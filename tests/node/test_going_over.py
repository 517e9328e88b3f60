"""node.going_over: when a replica that has sealed its epoch leaves it."""

import pytest

from node.going_over import LAGGARD_SECONDS, LEDGER_SECONDS, may_go_over, may_leave_ledger
from tests.ci.builders import cluster_of

BEFORE = cluster_of(4)
NAMES = BEFORE.replica_names
FOLLOWING = BEFORE.succeeded_by(cluster_of(4).genesis, 128, bytes(32))
GROWN = BEFORE.succeeded_by(cluster_of(7).genesis, 128, bytes(32))


@pytest.mark.parametrize(
    ("sealed", "begun", "waited", "goes"),
    [
        (4, 0, 0.0, True),
        (3, 0, 0.0, False),
        (3, 0, LAGGARD_SECONDS, True),
        # whoever is alone with the end waits: others need its word
        (2, 0, 1000.0, False),
        (1, 0, 1000.0, False),
        # a replica that was away finds the others gone
        (1, 2, LAGGARD_SECONDS, True),
        (1, 3, 0.0, True),
    ],
)
def test_a_replica_leaves_once_strong_have_the_end_and_the_rest_had_its_time(
    sealed: int, begun: int, waited: float, goes: bool
) -> None:
    here, there = frozenset(NAMES[:sealed]), frozenset(NAMES[sealed : sealed + begun])
    assert may_go_over(BEFORE, FOLLOWING, sealed=here, begun=there, waited_seconds=waited) is goes


def test_a_next_epoch_that_only_waits_for_this_replica_is_enough() -> None:
    """Others of the old epoch have stopped, and newcomers count in the next one."""
    new = frozenset(GROWN.replica_names[4:])
    for begun, goes in ((new | {NAMES[1]}, True), (new, False)):
        is_time = may_go_over(
            BEFORE,
            GROWN,
            sealed=frozenset({NAMES[0]}),
            begun=begun,
            waited_seconds=LAGGARD_SECONDS,
        )
        assert is_time is goes


@pytest.mark.parametrize(
    ("missing", "whole", "waited", "goes"),
    [
        (0, 0, 0.0, True),
        (5, 0, LEDGER_SECONDS - 1, False),
        # one may lie about what it has, of two one does not
        (5, 1, LEDGER_SECONDS - 1, False),
        (5, 2, 0.0, True),
        # nobody in the old epoch gives more
        (5, 0, LEDGER_SECONDS, True),
    ],
)
def test_a_replica_fetches_the_ledger_entries_that_it_lacks_before_it_leaves(
    missing: int, whole: int, waited: float, goes: bool
) -> None:
    there = frozenset(NAMES[:whole])
    leaves = may_leave_ledger(FOLLOWING, missing=missing, whole=there, waited_seconds=waited)
    assert leaves is goes
