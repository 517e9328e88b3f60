"""What a node answers over HTTP, and what it refuses."""

import base64
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.ledger import genesis_head, verify_chain
from ci.operations import Append
from client.network.nodes import NodeFailed, Nodes, ServedEvidence, decode_answer
from common.address import Address
from common.configuration.config import load_node_config
from common.configuration.keys import verify
from common.web.peers import Peers
from node.main import reading_middlewares
from pbft.authentication import Identity, sign_message
from pbft.certificates import StableCertificate
from pbft.codec import decode_request, decode_signed, digest_of, encode_message, encode_signed
from pbft.core import Settings
from pbft.evidence import check_evidence
from pbft.messages import Checkpoint, Signed, Status
from pbft.ports import Entry, Evidence
from pbft.state import Transfer
from scripts.folders import EXAMPLE_CONFIG
from tests.node.local_network import KEYS, NAMES, Client, FunctionLinks, Network, server_of
from tests.secret_files import secret_file
from tests.waiting import wait_until


def _body(signed: Signed) -> dict[str, str]:
    return {"signed": base64.b64encode(encode_signed(signed)).decode()}


async def test_status_has_the_names_of_the_seed(client: Client) -> None:
    status = await (await client.get("/pbft/status")).json()
    wanted = {
        "primary": "node0",
        "is_primary": True,
        "view": 0,
        "sequence": 0,
        "f": 1,
        "quorum_size": 3,
        "byzantine_nodes": [],
        "status": "normal",
        "scrub": {
            "entries_checked": 0,
            "damaged_entries": 0,
            "passes": 0,
            "is_structure_checked": False,
        },
    }
    assert {key: status[key] for key in wanted} == wanted


async def test_the_limits_that_hold_are_those_of_the_genesis_at_first(client: Client) -> None:
    limits = await (await client.get("/pbft/limits")).json()
    assert (limits["serial"], limits["since"], limits["pending"]) == (0, 0, [])
    assert limits["limits"]["executors"] == "all"
    assert (await (await client.get("/pbft/status")).json())["limits_serial"] == 0


async def test_a_node_that_misbehaves_on_purpose_says_so(network: Network) -> None:
    network.faulty["node1"].faults.switch("lying")
    async with TestClient(TestServer(server_of(network, "node1").application())) as client:
        status = await (await client.get("/pbft/status")).json()
    assert status["byzantine_nodes"] == ["node1"]
    assert status["fault_injection"] == "lying"
    assert "opposite" in status["fault_kinds"]["lying"]
    assert status["evidence"] == {}
    assert status["is_primary"] is False


async def test_who_differs_from_a_verdict_is_named(tmp_path: Path) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name, fault="lying" if name == "node2" else "allowed")
    network.submit()
    await wait_until(lambda: network.verdicts("node0") == 1, "the verdict")
    await wait_until(lambda: not network.applications["node0"].open_builds(), "all ballots")
    async with TestClient(TestServer(server_of(network, "node0").application())) as client:
        status = await (await client.get("/pbft/status")).json()
    assert status["dissenting_nodes"] == ["node2"]
    assert status["byzantine_nodes"] == []
    await network.close()


async def test_a_signed_request_starts_consensus(client: Client, network: Network) -> None:
    signed = network.request(Append("hello"))
    answer = await client.post("/pbft/request", json=_body(signed))
    assert answer.status == 200
    assert await answer.json() == {
        "status": "consensus_started",
        "sequence": 1,
        "digest": digest_of(signed.payload).hex(),
    }
    await wait_until(lambda: network.applications["node3"].journal_length == 1, "the append")


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b'{"operation": "transfer"}', 401, "by a member"),
        (b"", 401, "by a member"),
        (b'{"signed": "%s"}' % base64.b64encode(b"nonsense"), 400, "malformed"),
        (b'{"signed": "AAAA", "x": 1}', 401, "by a member"),
    ],
)
async def test_an_unsigned_request_is_refused(
    client: Client, data: bytes, status: int, text: str
) -> None:
    answer = await client.post("/pbft/request", data=data)
    assert answer.status == status
    assert text in (await answer.json())["error"]


async def test_a_forged_request_or_message_is_refused(client: Client, network: Network) -> None:
    signed = network.request(Append("hello"))
    forged = Signed(signed.signer, signed.payload, bytes(64))
    for path in ("/pbft/request", "/pbft/message"):
        answer = await client.post(path, json=_body(forged))
        assert answer.status == 401
        assert "bad signature" in (await answer.json())["error"]
    assert network.runtimes["node0"].replica.core.executed == 0


async def test_a_message_over_http_is_taken(client: Client, network: Network) -> None:
    signed = network.request(Append("hello"))
    answer = await client.post("/pbft/message", json=_body(signed))
    assert answer.status == 202
    await wait_until(lambda: network.applications["node0"].journal_length == 1, "the append")


async def test_what_counts_only_over_its_signers_link_is_refused_over_http(
    client: Client, network: Network
) -> None:
    """Else anybody could send an old STATUS of a replica again."""
    old, sign = Status(0, True, 0, 0, 3), KEYS["node3"].sign
    signed = sign_message(old, encode_message(old), Identity(network.cluster, "node3", sign))
    answer = await client.post("/pbft/message", json=_body(signed))
    assert answer.status == 400
    assert "its signer's own link" in (await answer.json())["error"]


async def test_the_last_messages_are_json(client: Client, network: Network) -> None:
    network.ask(Append("hello"))
    await wait_until(lambda: network.applications["node0"].journal_length == 1, "the append")
    rows = (await (await client.get("/pbft/log?limit=512")).json())["messages"]
    assert {"PrePrepare", "Prepare", "Commit", "Request"} <= {row["type"] for row in rows}
    commits = (await (await client.get("/pbft/log?type=Commit&limit=2")).json())["messages"]
    assert len(commits) == 2
    assert {"view", "sequence", "digest", "node_id", "signature"} <= set(commits[0])


@pytest.mark.parametrize("limit", ["0", "513", "x", "-1", "9" * 30])
async def test_a_wrong_number_is_refused(client: Client, limit: str) -> None:
    answer = await client.get(f"/pbft/log?limit={limit}")
    assert answer.status == 400
    assert "?limit=" in (await answer.json())["error"]


async def test_ballots_of_a_build_come_with_their_signatures(
    client: Client, network: Network
) -> None:
    network.submit()
    await wait_until(lambda: network.verdicts("node0") == 1, "the verdict")
    build = network.runners["node0"].asked[0].build
    await wait_until(lambda: len(network.stores["node0"].ballots.of(build)) == 4, "four ballots")
    answer = await (await client.get(f"/builds/{build.hex()}")).json()
    assert answer["approved"] is True
    assert [ballot["replica"] for ballot in answer["ballots"]] == list(NAMES)
    assert answer["decided"] is True
    for ballot in answer["ballots"]:
        signed = decode_signed(base64.b64decode(ballot["signed"]))
        assert decode_request(signed).client == ballot["replica"]
    assert (await client.get(f"/builds/{'0' * 64}")).status == 404
    assert (await client.get("/builds/xyz")).status == 404


async def test_a_log_is_served_as_plain_text(client: Client, network: Network) -> None:
    path = network.runners["node0"].log_path(bytes(32), 5)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"<script>\n" * 100_000)
    answer = await client.get(f"/builds/{'0' * 64}/log?opened=5")
    assert await answer.read() == path.read_bytes()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.get(f"/builds/{'0' * 64}/log?opened=6")).status == 404


async def test_the_ledger_is_paged_and_its_chain_holds(client: Client, network: Network) -> None:
    for number in range(5):
        network.ask(Append(f"{number}"))
    await wait_until(lambda: network.applications["node0"].journal_length == 5, "five appends")
    entries = []
    for first in (1, 3, 5):
        page = await (await client.get(f"/ledger?from={first}&limit=2")).json()
        entries += [
            Entry(row["index"], base64.b64decode(row["body"]), bytes.fromhex(row["head"]))
            for row in page["entries"]
        ]
    assert len(entries) == page["index"] == 5
    assert verify_chain(entries, genesis_head(network.cluster.id)) is None
    assert page["head"] == entries[-1].head.hex()
    last = await (await client.get("/ledger?to=4&limit=2")).json()
    assert [row["index"] for row in last["entries"]] == [3, 4]
    assert last["before"] == entries[1].head.hex()
    beyond = await (await client.get("/ledger?to=6&limit=2")).json()
    assert beyond["entries"] == []


async def _status(network: Network, name: str) -> dict[str, Any]:
    async with TestClient(TestServer(server_of(network, name).application())) as client:
        value: dict[str, Any] = await (await client.get("/pbft/status")).json()
    return value


async def test_status_says_where_every_peer_stands(client: Client, network: Network) -> None:
    began_at = time.monotonic()
    network.ask(Append("hello"))
    core = network.runtimes["node0"].replica.core

    def all_said() -> bool:
        return len(core.peers.status) == 3 and all(
            status.executed == 1 for status in core.peers.status.values()
        )

    await wait_until(all_said, "a STATUS of each")
    status = await (await client.get("/pbft/status")).json()
    assert set(status["peers"]) == {"node1", "node2", "node3"}
    # a tenth more, for it is rounded
    seconds_max = time.monotonic() - began_at + 0.1
    for peer in status["peers"].values():
        assert 0 <= peer.pop("last_heard_seconds") <= seconds_max
        assert peer == {
            "connected": True,
            "view": 0,
            "has_entered_view": True,
            "executed": 1,
            "stable_checkpoint": 0,
        }
    assert (status["in_sync"], status["behind_by"], status["ledger_missing"]) == (True, 0, 0)
    assert status["view_change"] is status["state_transfer"] is None


async def test_a_peer_that_was_not_heard_is_said_to_be_unknown(tmp_path: Path) -> None:
    network = Network(tmp_path)
    network.start("node0")
    peers = (await _status(network, "node0"))["peers"]
    assert peers["node2"] == {
        "connected": False,
        "last_heard_seconds": None,
        "view": None,
        "has_entered_view": None,
        "executed": None,
        "stable_checkpoint": None,
    }
    await network.close()


async def test_a_view_change_that_does_not_come_through_shows_who_asks_for_it(
    tmp_path: Path,
) -> None:
    network = Network(tmp_path, settings=Settings(view_change_seconds=0.2, status_seconds=0.1))
    for name in ("node1", "node2"):
        network.start(name)
    network.ask(Append("nobody orders this"))
    await wait_until(
        lambda: len(network.runtimes["node1"].replica.core.views.changes) == 2, "two VIEW-CHANGEs"
    )
    status = await _status(network, "node1")
    assert status["status"] == "view_change"
    assert status["has_entered_view"] is False
    assert status["view_change"] == {
        "view": 1,
        "supporters": ["node1", "node2"],
        "supported_by": 2,
        "needed": 3,
    }
    await network.close()


async def test_a_replica_that_is_behind_says_by_how_much(tmp_path: Path) -> None:
    """As far as f+1 peers say so: a single one that boasts makes nobody look late."""
    network = Network(tmp_path, settings=Settings(status_seconds=0.1))
    for name in NAMES:
        network.start(name)
    core = network.runtimes["node3"].replica.core
    await wait_until(lambda: len(core.peers.status) == 3, "a STATUS of each")
    network.cut.add("node3")
    core.peers.status[0] = msgspec.structs.replace(core.peers.status[0], executed=99)
    assert (await _status(network, "node3"))["behind_by"] == 0
    core.peers.status[1] = msgspec.structs.replace(core.peers.status[1], executed=7)
    status = await _status(network, "node3")
    assert (status["behind_by"], status["in_sync"], status["status"]) == (7, False, "behind")
    await network.close()


async def test_a_disk_that_is_slow_is_told(
    network: Network, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = network.runtimes["node0"]
    timer = runtime.replica.core.settings.view_change_seconds
    assert (await _status(network, "node0"))["disk"]["is_slow"] is False
    save = network.stores["node0"].save

    def slow_once(*arguments: Any) -> None:
        monkeypatch.undo()
        save(*arguments)
        time.sleep(timer / 5)

    monkeypatch.setattr(network.stores["node0"], "save", slow_once)
    network.ask(Append("hello"))
    await wait_until(lambda: runtime.disk.last_seconds > 0, "a save")
    disk = (await _status(network, "node0"))["disk"]
    assert disk["is_slow"] is True
    assert disk["slowest_save_seconds"] >= timer / 5
    assert any("view_change_seconds should be at least" in text for text in caplog.messages)


async def test_a_state_transfer_and_missing_entries_are_told(network: Network) -> None:
    core = network.runtimes["node0"].replica.core
    certificate = StableCertificate(64, bytes(32), ())
    core.transfers.current = Transfer(certificate, {"a": bytes(32), "b": bytes(32)}, {"a": b""})
    network.stores["node0"].ledger.save_position(5, bytes(32), (0, bytes(32)))
    status = await _status(network, "node0")
    assert status["status"] == "state_transfer"
    assert status["state_transfer"] == {"sequence": 64, "parts_here": 1, "parts": 2}
    assert (status["ledger_missing"], status["in_sync"]) == (5, False)


def _contradiction(network: Network, name: str, sequence: int) -> tuple[Signed, Signed]:
    messages = [Checkpoint(sequence, bytes([n]) * 32, NAMES.index(name)) for n in (1, 2)]
    one, other = (
        sign_message(
            message, encode_message(message), Identity(network.cluster, name, KEYS[name].sign)
        )
        for message in messages
    )
    return one, other


async def test_evidence_is_given_out_with_both_originals(client: Client, network: Network) -> None:
    assert (await (await client.get("/pbft/evidence")).json())["evidence"] == []
    pairs = [_contradiction(network, "node2", 8 * number) for number in range(1, 6)]
    network.stores["node0"].save([], [], [Evidence(2, *pair) for pair in pairs])
    whole = await client.get("/pbft/evidence?limit=100")
    served = decode_answer(await whole.read(), ServedEvidence, "node0")
    assert len(served.evidence) == 5, "the client reads what the node writes"
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = await (await client.get(f"/pbft/evidence?after={after}&limit=2")).json()
        assert page["total"] == 5
        assert len(page["evidence"]) <= 2
        rows += page["evidence"]
        after = page["next"]
    assert [row["replica"] for row in rows] == ["node2"] * 5
    assert rows[0]["proves"].startswith("node2 signed two different Checkpoint messages")
    for row, pair in zip(rows, pairs, strict=True):
        originals = tuple(decode_signed(base64.b64decode(row[key])) for key in ("first", "second"))
        assert originals == pair
        assert isinstance(check_evidence(*originals, network.cluster, verify=verify), str)
    status = await (await client.get("/pbft/status")).json()
    assert status["byzantine_nodes"] == ["node2"]
    assert status["evidence"] == {"node2": 5}
    assert (await client.get("/pbft/evidence?limit=101")).status == 400


async def test_the_ledger_is_not_served_inside_a_gap_or_beyond_its_end(
    client: Client, network: Network
) -> None:
    network.ask(Append("hello"))
    await wait_until(lambda: network.applications["node0"].journal_length == 1, "the append")
    ledger = network.stores["node0"].ledger
    network.applications["node0"].ledger_index = 0
    assert (await (await client.get("/ledger?from=1")).json())["entries"] == []
    network.applications["node0"].ledger_index = 9
    ledger.save_position(9, bytes(32), ledger.end())
    assert len((await (await client.get("/ledger?from=1")).json())["entries"]) == 1
    assert (await (await client.get("/ledger?from=2")).json())["entries"] == []
    assert (await (await client.get("/ledger?from=99")).json())["entries"] == []


async def test_a_client_of_a_ledger_with_a_gap_is_told_what_to_do(
    client: Client, network: Network
) -> None:
    """A node that took over a state fetches old entries for a while; nothing is wrong with it."""
    network.ask(Append("hello"))
    await wait_until(lambda: network.applications["node0"].journal_length == 1, "the append")
    ledger = network.stores["node0"].ledger
    address = Address("127.0.0.1", int(client.server.port or 0))
    async with Nodes(Peers({"node0": address})) as nodes:
        assert [entry.index for entry in await nodes.ledger("node0")] == [1]
        ledger.save_position(9, bytes(32), ledger.end())
        network.applications["node0"].ledger_index = 9
        with pytest.raises(
            NodeFailed, match="lacks 8 ledger entries, the first is entry 2, and is"
        ):
            await nodes.ledger("node0")


async def test_ready_means_in_step_linked_and_voting(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (
        200,
        {"ready": True, "replica": "node0", "reasons": []},
    )
    network.runtimes["node0"].replica.core.recovery.nonce = b"n" * 32
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert "it does not vote" in (await answer.json())["reasons"]
    network.runtimes["node0"].replica.core.recovery.nonce = b""
    # alone it cannot know what the others have
    monkeypatch.setattr(FunctionLinks, "connected", lambda links: frozenset({"node1", "client"}))
    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["reasons"]) == (
        503,
        ["it has 1 link, and needs 2"],
    )


async def test_metrics_tell_where_the_replica_stands(network: Network, client: Client) -> None:
    network.submit(1)
    await wait_until(lambda: network.verdicts("node0") == 1, "the verdict")
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    text = await answer.text()
    assert 'pbftci_builds_total{outcome="passed"} 1.0' in text
    assert 'pbftci_phase_seconds_count{phase="executed"}' in text
    assert 'pbftci_peer_connected{replica="node1"} 1.0' in text
    for name in ("pbftci_link_messages", "pbftci_link_bytes"):
        assert f'{name}{{direction="sent"}}' in text
    executed = network.runtimes["node0"].replica.core.executed
    assert f'pbftci_state{{what="executed"}} {float(executed)}' in text
    assert 'pbftci_caches{what="hits"} 3.0' in text
    assert 'pbftci_cache_evictions{reason="dissent"} 0.0' in text


async def test_with_read_tokens_only_what_members_need_is_read_without_one(
    network: Network, tmp_path: Path
) -> None:
    file = secret_file(tmp_path / "tokens", "read-token\n")
    configuration = tmp_path / "node0.yml"
    text = (EXAMPLE_CONFIG / "node0.yml").read_text()
    configuration.write_text(f"{text}\nread_token_file: {file}\n")
    asked = reading_middlewares(load_node_config(configuration))
    async with TestClient(TestServer(server_of(network, "node0").application(asked))) as client:
        for path in ("/metrics", "/pbft/log"):
            answer = await client.get(path)
            assert answer.status == 401
            assert "read_token_file" in (await answer.json())["error"]
            shown = {"Authorization": "Bearer read-token"}
            assert (await client.get(path, headers=shown)).status == 200
        for path in ("/pbft/status", "/pbft/evidence", "/ledger", "/healthz", "/readyz"):
            assert (await client.get(path)).status == 200
