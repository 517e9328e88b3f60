"""Which nodes of a swarm a build may use, and when it has lost the one that it had."""

from typing import Any

import pytest

from node.sandboxes.containers.swarm import excluded, loss, preferred, worker_of
from node.work.infrastructure_error import InfrastructureError


def node(
    node_id: str, hostname: str, state: str = "ready", availability: str = "active"
) -> dict[str, Any]:
    return {
        "ID": node_id,
        "Description": {"Hostname": hostname},
        "Status": {"State": state},
        "Spec": {"Availability": availability},
    }


def task(state: str = "running", wanted: str = "running") -> dict[str, Any]:
    return {"Status": {"State": state}, "DesiredState": wanted}


def test_nodes_that_the_configuration_does_not_name_get_no_build() -> None:
    nodes = [node("1", "a"), node("2", "b"), node("3", "c")]
    assert excluded(nodes, ("a", "3")) == ["node.id!=2"]


def test_a_worker_that_failed_is_avoided_if_another_one_takes_builds() -> None:
    paused = node("2", "b", availability="pause")
    assert preferred([node("1", "a"), node("2", "b")], ("a", "b"), ("a",)) == ["b"]
    assert preferred([node("1", "a"), paused], ("a", "b"), ("a",)) == ("a", "b")
    assert preferred([node("1", "a")], ("a",), ("a",)) == ("a",)


def test_a_node_is_named_by_its_hostname_or_its_id() -> None:
    nodes = [node("1", "a"), node("2", "b")]
    assert [worker_of(nodes, each, ("b", "1")) for each in ("1", "2")] == ["1", "b"]


def test_a_node_that_just_joined_is_tried_again() -> None:
    with pytest.raises(InfrastructureError, match="just joined") as refused:
        worker_of([node("1", "a")], "2", ("a",))
    assert not refused.value.is_permanent


def test_a_hostname_of_two_nodes_is_refused_unless_one_is_down() -> None:
    twice = [node("1", "a"), node("2", "a")]
    with pytest.raises(InfrastructureError, match="write their ids") as refused:
        worker_of(twice, "1", ("a",))
    assert refused.value.is_permanent
    assert worker_of([node("1", "a"), node("2", "a", "down")], "1", ("a",)) == "a"


@pytest.mark.parametrize(
    ("seen", "tasks", "reason"),
    [
        (node("1", "a"), [task()], None),
        # no further tasks come there, and those that run go on
        (node("1", "a", availability="pause"), [task()], None),
        (node("1", "a", "down"), [task()], "worker a is down"),
        (node("1", "a", "unknown"), [task()], "worker a is unknown"),
        (node("1", "a", availability="drain"), [task()], "worker a is being drained"),
        (node("1", "a"), [], "worker a no longer runs the task that reserves it"),
        (node("1", "a"), [task("failed")], "worker a no longer runs the task that reserves it"),
        (
            node("1", "a"),
            [task(wanted="shutdown")],
            "worker a no longer runs the task that reserves it",
        ),
    ],
)
def test_when_a_build_has_lost_its_worker(
    seen: dict[str, Any], tasks: list[dict[str, Any]], reason: str | None
) -> None:
    assert loss(seen, tasks, "a") == reason
