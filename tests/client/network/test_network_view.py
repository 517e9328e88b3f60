"""client.network.network_view: who is down or disagrees, in the operator's words."""

import msgspec
import pytest

from client.network.ballot_times import ReplicaTimes
from client.network.dissent import DissentView
from client.network.network_view import (
    HeardBy,
    Reach,
    ReplicaState,
    consequence,
    heard_by,
    iso_seconds,
    summary,
    time_of_day,
)
from client.network.node_status import NodeStatus, PeerStatus
from client.network.proofs import ProofView

WELL = NodeStatus(status="normal", view=0, in_sync=True, behind_by=0, ledger_missing=0)
NOW = "2026-01-31T18:00:00Z"
PROOF = ProofView("node1", "node1 signed two different Commit messages", "one", "other")


def state(name: str, said: NodeStatus | None = WELL, **changed: object) -> ReplicaState:
    replica = ReplicaState(
        replica=name,
        connected=True,
        reach=Reach.UP if said is not None else Reach.DOWN,
        since=None,
        heard=None,
        status=said,
        error=None,
        ahead_seconds=None,
        last=said,
        heard_by=(),
        dissent=DissentView(),
        times=ReplicaTimes(),
        proofs=(),
        proofs_count=0,
        ledger_differs_at=None,
    )
    return msgspec.structs.replace(replica, **changed)


def four(*changed: ReplicaState) -> list[ReplicaState]:
    by_name = {replica.replica: replica for replica in changed}
    return [by_name.get(name) or state(name) for name in ("node0", "node1", "node2", "node3")]


def said_of(*changed: ReplicaState) -> tuple[str, str, str]:
    replicas = four(*changed)
    level, sentence = summary(replicas, 3, None, now=NOW)
    return level, sentence, consequence(replicas, 3)


def test_all_is_well() -> None:
    assert said_of() == (
        "good",
        "All 4 replicas answer, are in step, and agree.",
        "Builds are decided, and still would be with one down.",
    )


def test_one_is_down() -> None:
    down = state("node2", None, since="2026-01-31T17:20:03Z", connected=False)
    assert said_of(down) == (
        "bad",
        "node2 is down since 17:20:03 UTC.",
        "Builds are decided: it takes 3 of 4 replicas, and exactly that many are healthy.",
    )


def test_one_that_was_down_the_day_before_is_told_with_the_date() -> None:
    down = state("node2", None, since="2026-01-30T23:59:59Z", connected=False)
    assert said_of(down)[1] == "node2 is down since 2026-01-30 23:59:59 UTC."
    assert time_of_day("2026-01-31T00:00:00Z", NOW) == "00:00:00 UTC"


def test_two_are_down_and_builds_wait() -> None:
    down = [state(name, None, connected=False) for name in ("node1", "node2")]
    assert said_of(*down) == (
        "bad",
        "node1 and node2 are down since before this gateway started.",
        "Builds wait: it takes 3 of 4 replicas, and 2 answer.",
    )


def test_there_is_only_one() -> None:
    def told(replica: ReplicaState) -> tuple[str, str]:
        return summary([replica], 1, None, now=NOW)[1], consequence([replica], 1)

    assert told(state("node0")) == (
        "The only replica answers and is in step.",
        "The only replica decides builds, and no other replica checks it.",
    )
    down = state("node0", None, since="2026-01-31T17:20:03Z", connected=False)
    assert told(down) == (
        "node0 is down since 17:20:03 UTC.",
        "Builds wait: the only replica does not answer.",
    )
    lying = state("node0", msgspec.structs.replace(WELL, fault_injection="lying"))
    assert told(lying)[1] == "Builds may wait: the only replica is not healthy."


def test_one_whose_clock_is_wrong() -> None:
    clocks = {"node0": 0.4, "node1": -0.2, "node2": -601.0, "node3": 9.0}
    found = said_of(*(state(name, ahead_seconds=ahead) for name, ahead in clocks.items()))
    assert found[:2] == ("warning", "the clock of node2 is 601 s behind.")


def test_the_gateways_clock_is_wrong() -> None:
    """All others agree on it; the one that does not answer has no say."""
    clocks = {"node0": -600.0, "node1": -600.5, "node2": None, "node3": -601.0}
    found = said_of(*(state(name, ahead_seconds=ahead) for name, ahead in clocks.items()))
    assert found[:2] == ("warning", "this gateway's clock is 600 s ahead.")


def test_one_disagrees() -> None:
    lately = DissentView(dissents=9, recent_dissents=2, recent_verdicts=20)
    dissenting = state("node3", dissent=lately)
    level, sentence, _ = said_of(dissenting)
    assert (level, sentence) == ("warning", "node3 disagreed with 2 of the newest 20 verdicts.")
    lately = DissentView(abstentions=9, recent_abstentions=1, recent_verdicts=7)
    unable = state("node3", dissent=lately)
    level, sentence, _ = said_of(unable)
    assert (level, sentence) == ("warning", "node3 could not build 1 of the newest 7 builds.")
    only = state("node3", dissent=DissentView(1, 0, recent_dissents=1, recent_verdicts=1))
    assert said_of(only)[1] == "node3 disagreed with the newest verdict."
    long_ago = state("node3", dissent=DissentView(dissents=9))
    assert said_of(long_ago)[0] == "good"


def test_the_gravest_comes_first() -> None:
    level, sentence, then = said_of(
        state("node1", proofs=(PROOF,), proofs_count=1),
        state("node0", ledger_differs_at=7),
        state("node3", msgspec.structs.replace(WELL, fault_injection="lying")),
    )
    assert level == "bad"
    assert sentence == (
        "node1 is proved to have signed contradictions; "
        "node0 gives another ledger than the others; "
        "node3 misbehaves on purpose (lying)."
    )
    assert then == "Builds may wait: it takes 3 of 4 replicas, and 1 is healthy."
    assert summary(four(), 3, "more than f lie", now=NOW)[1] == "more than f lie."


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"status": "view_change"}, "node1 is in status view change."),
        ({"status": "recovering"}, "node1 is in status recovering."),
        ({"behind_by": 12, "in_sync": False}, "node1 is 12 numbers behind."),
        ({"behind_by": 1, "in_sync": False}, "node1 is 1 number behind."),
        ({"ledger_missing": 1, "in_sync": False}, "node1 lacks 1 ledger entry."),
        ({"ledger_missing": 3, "in_sync": False}, "node1 lacks 3 ledger entries."),
    ],
)
def test_where_one_stands_otherwise(changed: dict[str, object], sentence: str) -> None:
    told = said_of(state("node1", msgspec.structs.replace(WELL, **changed)))
    assert told[:2] == ("warning", sentence)


def test_late_and_unlinked_are_not_down() -> None:
    late = state("node1", None, reach=Reach.LATE, last=WELL)
    assert said_of(late) == (
        "warning",
        "node1 answers late.",
        "Builds are decided, and still would be with one down.",
    )
    assert said_of(state("node1", connected=False))[1] == "node1 answers, but without a link."
    asking = state("node1", None, reach=Reach.UNKNOWN)
    assert said_of(asking)[:2] == ("warning", "The replicas are being asked.")


def test_who_hears_whom() -> None:
    statuses = {
        "node0": NodeStatus(peers={"node1": PeerStatus(True, 0.5)}),
        "node2": NodeStatus(peers={"node1": PeerStatus(False, 99.0)}),
        "node3": NodeStatus(peers={"node1": PeerStatus(False, None)}),
        "node1": NodeStatus(peers={"node1": PeerStatus(True, 0.1)}),
    }
    found = heard_by("node1", statuses)
    assert found == (
        HeardBy("node0", True, 0.5),
        HeardBy("node2", False, 99.0),
        HeardBy("node3", False, None),
    )
    assert [other.is_heard for other in found] == [True, False, False]


def test_times_are_told_to_the_second() -> None:
    assert iso_seconds(0.9) == "1970-01-01T00:00:00Z"
