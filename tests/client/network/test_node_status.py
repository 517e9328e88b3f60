"""client.network.node_status: a node's words are typed and short, or they are no status."""

import json
from typing import Any

import pytest

from client.network.node_status import NodeStatus, foreign_words
from client.network.nodes import NodeFailed, decode_answer

CLUSTER = bytes(range(32))


def read(told: dict[str, Any]) -> NodeStatus:
    return decode_answer(json.dumps(told).encode(), NodeStatus, "node0")


def test_what_an_older_node_does_not_say_is_null_and_what_a_newer_one_says_is_left_out() -> None:
    status = read({"view": 3, "moon_phase": "<b>full</b>"})
    assert (status.view, status.status, status.fault_kinds) == (3, None, None)


@pytest.mark.parametrize(
    "told",
    [
        {"status": "<script>alert(1)</script>"},
        {"version": "1.2.3\u202e"},
        {"primary": "node0\n"},
        {"status": "x" * 65},
        {"byzantine_nodes": ["a b"]},
        {"byzantine_nodes": ["n"] * 1001},
        {"evidence": {"<i>": 1}},
        {"evidence": {"node1": -1}},
        {"fault_kinds": {"lying": "x" * 201}},
        {"fault_kinds": {"'onclick='": "it"}},
        {"fault_kinds": {f"fault{number}": "it" for number in range(51)}},
        {"view": -1},
        {"view": 2**63},
        {"view": "3"},
        {"ledger_head": "'\""},
        {"peers": {"node1": {"last_heard_seconds": "soon"}}},
    ],
)
def test_what_could_be_markup_or_nonsense_is_no_status(told: dict[str, Any]) -> None:
    with pytest.raises(NodeFailed, match="node0"):
        read(told)


def test_who_answers_for_another_is_found_out() -> None:
    assert foreign_words(read({}), "node0", CLUSTER) is None
    assert foreign_words(read({"node_id": "node0"}), "node0", CLUSTER) is None
    assert "node1 answers" in (foreign_words(read({"node_id": "node1"}), "node0", CLUSTER) or "")
    other = read({"node_id": "node0", "cluster": "ab" * 32})
    assert "another cluster" in (foreign_words(other, "node0", CLUSTER) or "")
