"""What a node proves: its own finding, who contradicted a verdict later, its ledger's head."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ci.ledger import VerdictEntry, decode_entry
from ci.ledger_proof import LedgerProof, ProvedLedger, check_ledger_proof
from ci.operations import Append, Outcome
from ci.provenance import verify_provenance
from ci.statement import open_envelope, parse_statement
from ci.supplement import SupplementFields, SupplementView
from client.network.nodes import ServedLedgerProof, decode_answer
from common.configuration.keys import verify
from driver.ports import SaveFailed
from node.storage.store import Store
from node.web.proof_routes import ProofRoutes
from pbft.codec import decode_signed
from pbft.ports import CheckpointRecord, Record
from tests.node.local_network import Client, Network, finding
from tests.node.web.test_artifact_routes import OneBuild
from tests.waiting import wait_until


@pytest.fixture
async def client(network: Network, tmp_path: Path) -> AsyncIterator[Client]:
    """An HTTP client of node1's routes."""
    application = web.Application()
    kept = OneBuild(tmp_path / "artifacts")
    application.add_routes(ProofRoutes(network.runtimes["node1"], kept).routes())
    async with TestClient(TestServer(application)) as client:
        yield client


async def _fill_an_interval(network: Network) -> None:
    """Execute as many numbers as there are to the first checkpoint, one request in each."""
    core = network.runtimes["node1"].replica.core
    for number in range(core.interval):
        network.ask(Append(f"string {number}"))
        await wait_until(lambda wanted=number: core.executed > wanted, "the string")  # type: ignore[misc]


async def test_provenance_is_this_replicas_own_word(network: Network, client: Client) -> None:
    network.submit(1)
    store = network.stores["node1"]

    await wait_until(lambda: network.verdicts("node1") == 1, "the verdict")
    verdict = next(
        body
        for entry in store.ledger.newest(10)
        if isinstance(body := decode_entry(entry.body), VerdictEntry)
    )
    build = bytes.fromhex(verdict.build)
    await wait_until(lambda: "node1" in {b[1] for b in store.ballots.of(build)}, "node1's ballot")
    data = store.ledger.find_statement(build)
    assert data is not None
    statement = parse_statement(data)
    path = f"/builds/{build.hex()}/provenance?opened={statement.verdict.opened}"
    answer = await client.get(path)
    assert answer.status == 200
    line = await answer.read()
    provenance = verify_provenance(line, "node1", statement, cluster=network.cluster, verify=verify)
    assert provenance.predicate.finding.outcome == statement.verdict.outcome
    assert await (await client.get(path)).read() == line, "asking again gives the same"
    for wrong in (path + "9", f"/builds/{'0' * 64}/provenance?opened=1"):
        assert (await client.get(wrong)).status == 404
    assert (await client.get(path + "x")).status == 400


async def test_the_ledger_is_proved_from_the_first_stable_checkpoint_on(
    network: Network, client: Client
) -> None:
    answer = await client.get("/ledger/proof")
    assert answer.status == 404
    assert "no checkpoint is stable yet" in (await answer.json())["error"]
    core = network.runtimes["node1"].replica.core
    await _fill_an_interval(network)
    await wait_until(lambda: core.low > 0, "a stable checkpoint")
    served = decode_answer(
        await (await client.get("/ledger/proof")).read(), ServedLedgerProof, "node1"
    )
    proof = LedgerProof(
        served.sequence,
        tuple(decode_signed(signed) for signed in served.checkpoints),
        served.leaves,
        served.ledger_part,
    )
    proved = check_ledger_proof(proof, network.cluster, verify)
    assert isinstance(proved, ProvedLedger)
    entry = network.stores["node1"].ledger.entries(proved.index, 1)[0]
    assert (proved.index > 0, entry.head) == (True, proved.head)


async def test_nothing_is_proved_by_a_checkpoint_that_is_not_on_disk_yet(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, store = network.runtimes["node1"], network.stores["node1"]
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    real_commit = Store._commit
    is_full = True

    def commit(which: Store, records: Sequence[Record], *rest: object) -> None:
        if (
            which is store
            and is_full
            and any(isinstance(record, CheckpointRecord) for record in records)
        ):
            raise SaveFailed("no space left on device")
        real_commit(which, records, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_commit", commit)
    core = runtime.replica.core
    await _fill_an_interval(network)
    await wait_until(lambda: core.low > 0 and runtime.is_unsaved, "a base that is not saved")
    answer = await client.get("/ledger/proof")
    assert answer.status == 503
    assert "ask another one" in (await answer.json())["error"]
    is_full = False
    await wait_until(lambda: not runtime.is_unsaved, "the base on disk")
    assert (await client.get("/ledger/proof")).status == 200


async def test_who_contradicted_a_verdict_later_is_one_text_for_one_entry(
    network: Network, client: Client
) -> None:
    """Signed as not final while a ballot may still come, and as final after it."""
    late = network.runners["node3"]
    late.allowed.clear()
    late.ballot = finding(Outcome.FAILED, 1)
    network.submit(1)
    await wait_until(lambda: network.verdicts("node1") == 1, "the verdict")
    ledger = network.stores["node1"].ledger
    (build,) = network.applications["node1"].open_builds()
    found = ledger.find_verdict(build)
    assert found is not None
    index, verdict = found
    path = f"/builds/{build.hex()}/supplement?opened={verdict.opened}"

    async def supplement(at: int) -> SupplementFields:
        answer = await client.get(f"{path}&at={at}")
        assert answer.status == 200, await answer.text()
        payload, signatures = open_envelope(await answer.read(), network.cluster, verify)
        assert tuple(signatures) == ("node1",)
        return msgspec.json.decode(payload, type=SupplementView).predicate

    early = await supplement(index)
    assert (early.is_final, early.late_ballots) == (False, ())
    assert early.without_ballot == ("node3",)
    answer = await client.get(f"{path}&at={index + 1}")
    assert (answer.status, f"ends at entry {index}" in await answer.text()) == (409, True)
    late.allowed.set()
    await wait_until(lambda: ledger.end()[0] == index + 1, "the late ballot")
    final = await supplement(index + 1)
    assert final.is_final
    assert final.ledger_head == ledger.end()[1].hex()
    assert [(b.replica, b.stance) for b in final.late_ballots] == [("node3", "contradicts")]
    assert await supplement(index) == early, "asking again gives the same"
    for wrong in (f"{path}9&at={index}", f"{path}&at={index - 1}"):
        assert (await client.get(wrong)).status == 404
    # what it lacks may be a ballot
    ledger.save_position(index + 3, b"h" * 32, ledger.end())
    network.applications["node1"].ledger_index = index + 3
    answer = await client.get(f"{path}&at={index + 1}")
    assert (answer.status, "lacks ledger entries" in await answer.text()) == (503, True)
