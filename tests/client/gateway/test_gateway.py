"""gateway: from an accepted webhook to an archived verdict, on real replicas in memory."""

import asyncio
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ci.builds import OpenBuild
from ci.limits import Limits
from ci.operations import BuildResult, Outcome
from ci.statement import pae
from client.gateway.answers import used_up_to
from client.gateway.resolve import FoundCommit, NoSuchBranch, Unreachable
from client.gateway.write_queue import QueueFull
from client.storage.archive import BuildRecord
from client.storage.outbox import Outbox
from client.views.build_view import BuildStatus, accepted_verdict, build_view
from common.configuration.keys import verify
from pbft.authentication import Identity, sign_message
from pbft.client import Accepted
from pbft.codec import decode_message, decode_request, encode_message
from pbft.messages import Envelope, Replies, Reply
from tests.ci.builders import COMMIT, GATEWAY, finding
from tests.client.running_network import (
    REPOSITORY,
    FixedResolver,
    Network,
    Running,
    key_of,
    passed,
    run_gateway,
)
from tests.waiting import wait_until

WAIT_SECONDS = 60.0


async def until(condition: Callable[[], bool]) -> None:
    await wait_until(condition, "the gateway's test", WAIT_SECONDS)


def record_of(running: Running, build: bytes) -> BuildRecord:
    record = running.archive.get(build)
    assert record is not None
    return record


async def decided(running: Running, build: bytes) -> BuildRecord:
    await until(lambda: record_of(running, build).statement is not None)
    return record_of(running, build)


def finds_passed(log: str, build: OpenBuild) -> tuple[BuildResult, bytes]:
    return passed(log)


def result_ids(running: Running) -> list[str]:
    lines = running.results_file.read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


async def test_a_build_goes_from_its_webhook_to_its_verdict(running: Running) -> None:
    build = await running.gateway.submit(REPOSITORY, "master", None)
    record = await decided(running, build)
    assert record.statement is not None
    verdict = accepted_verdict(record.statement, running.network.cluster, build)
    assert verdict is not None
    assert (verdict.outcome, verdict.commit, verdict.branch) == (Outcome.PASSED, COMMIT, "master")
    assert (
        record.received_at
        <= (record.resolved_at or 0)
        <= (record.signed_at or 0)
        <= (record.opened_at or 0)
        <= (record.decided_at or 0)
    )
    assert running.gateway.unfinished == 0
    assert result_ids(running) == [build.hex()]
    # so that a crash writes no line a second time, wherever the file is by then
    await until(lambda: running.database.rows("SELECT * FROM results") == [])


async def test_every_replica_is_archived_with_ballot_log_and_signature(running: Running) -> None:
    for index, node in enumerate(running.network.nodes.values()):
        node.finds = functools.partial(finds_passed, f"log of {index}")
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).collected)
    await until(lambda: len(running.archive.replies(build)) == 4)
    statement = record_of(running, build).statement
    assert statement is not None
    for index, name in enumerate(running.network.cluster.replica_names):
        log = running.archive.log_file(build, name).read_bytes()
        assert log == f"log of {index}".encode()
    for reply in running.archive.replies(build):
        public_key = running.network.cluster.public_key(reply.replica)
        assert public_key is not None
        assert reply.attestation is not None
        assert verify(public_key, pae(statement), reply.attestation)
    view = build_view(
        record_of(running, build), running.archive.ballots(build), running.archive.replies(build)
    )
    assert view.status is BuildStatus.DECIDED
    assert view.verdict is not None
    assert sorted(view.verdict.agreeing) == sorted(running.network.nodes)
    assert view.verdict.dissenting == ()


async def test_a_branch_that_does_not_exist_goes_in_without_a_commit(
    network: Network, tmp_path: Path
) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: (
            finding(Outcome.CHECKOUT_FAILED, 128, commit=None, pipeline_sha256=None),
            b"log",
        )
    running = await run_gateway(network, tmp_path, FixedResolver(NoSuchBranch()))
    build = await running.gateway.submit(REPOSITORY, "no-such-branch", None)
    record = await decided(running, build)
    assert record.commit is None
    assert json.loads(record.statement or b"")["predicate"]["pbftci_verdict"]["exitCode"] == 128
    await running.close()


async def test_an_unreachable_server_is_asked_again_and_the_build_says_so(
    network: Network, tmp_path: Path
) -> None:
    resolver = FixedResolver(Unreachable("no route to host"), FoundCommit(COMMIT))
    running = await run_gateway(network, tmp_path, resolver)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: "no route to host" in (record_of(running, build).detail or ""))
    record = await decided(running, build)
    assert (record.commit, record.detail, resolver.questions) == (COMMIT, None, 2)
    await running.close()


async def test_a_commit_that_was_given_is_not_asked_for(network: Network, tmp_path: Path) -> None:
    resolver = FixedResolver(Unreachable("must not be asked"))
    running = await run_gateway(network, tmp_path, resolver)
    build = await running.gateway.submit(REPOSITORY, "master", COMMIT)
    await decided(running, build)
    assert resolver.questions == 0
    await running.close()


async def test_many_webhooks_share_commits_and_stay_below_the_cap(tmp_path: Path) -> None:
    """More than the network holds for one client: all get their verdict, none is refused."""
    network = Network(limits=Limits(open_builds_per_client_max=8))
    await network.start()
    running = await run_gateway(network, tmp_path)
    builds = await asyncio.gather(
        *(running.gateway.submit(REPOSITORY, f"b{index}", None) for index in range(30))
    )
    await until(lambda: running.gateway.unfinished == 0)
    assert sorted(result_ids(running)) == sorted(build.hex() for build in builds)
    asked = [decode_request(signed) for signed in network.asked]
    assert {request.timestamp for request in asked} == set(range(1, 31))
    await running.close()
    await network.close()


async def test_a_network_that_is_full_is_asked_again_with_the_same_identity(
    network: Network, tmp_path: Path
) -> None:
    """Another life of this gateway, whose data is lost, holds all places."""
    limits = Limits(open_builds_per_client_max=2)
    network = Network(limits=limits)
    await network.start()
    for node in network.nodes.values():
        node.finds = lambda build: None
    lost = await run_gateway(network, tmp_path / "lost")
    held = [await lost.gateway.submit(REPOSITORY, "held", None)]
    await until(lambda: record_of(lost, held[0]).opened_at is not None)
    await lost.close()

    running = await run_gateway(network, tmp_path / "new")
    with running.database.transaction():
        running.database.write("UPDATE counter SET next_timestamp = 2")
    filling = await running.gateway.submit(REPOSITORY, "filling", None)
    await until(lambda: record_of(running, filling).opened_at is not None)
    running.gateway._allocator.undecided_max = 2
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: "full" in (record_of(running, build).detail or ""))
    for node in network.nodes.values():
        node.finds = lambda build: passed()
    await decided(running, build)
    numbers: dict[bytes, set[int]] = {}
    for signed in network.asked:
        request = decode_request(signed)
        numbers.setdefault(request.operation, set()).add(request.timestamp)
    assert max(len(used) for used in numbers.values()) >= 2, "no request got a second number"
    assert len(numbers) == 3, "a request was asked under two identities"
    await running.close()
    await network.close()


async def test_how_much_the_network_is_asked_at_once_follows_the_limits(running: Running) -> None:
    allocator = running.gateway._allocator
    before = (allocator.undecided_max, allocator.waiting_max)
    running.gateway.use_limits(
        Limits(open_builds_per_client_max=16, waiting_builds_per_client_max=3)
    )
    assert (allocator.undecided_max, allocator.waiting_max) == (14, 3) != before


async def test_a_gateway_that_lost_its_counter_takes_the_next_numbers(
    network: Network, tmp_path: Path
) -> None:
    first = await run_gateway(network, tmp_path / "first")
    for index in range(3):
        await decided(first, await first.gateway.submit(REPOSITORY, f"b{index}", None))
    await first.close()
    second = await run_gateway(network, tmp_path / "second")
    build = await second.gateway.submit(REPOSITORY, "master", None)
    await decided(second, build)
    assert result_ids(second) == [build.hex()]
    await second.close()


async def test_a_gateway_that_lost_its_counter_long_ago_is_told_where_to_go_on(
    network: Network, tmp_path: Path
) -> None:
    """More than client_window numbers ago: the replicas have forgotten what number 1 asked."""
    first = await run_gateway(network, tmp_path / "first")
    window = network.cluster.genesis.client_window
    lost = [await first.gateway.append(f"{index}") for index in range(window + 20)]
    await asyncio.wait_for(asyncio.gather(*lost), 60)
    await first.close()
    asked_before = len(network.asked)

    second = await run_gateway(network, tmp_path / "second")
    # All in one turn: five numbers that were used are taken before the first answer comes.
    appends = await asyncio.gather(*(second.gateway.append(f"new {n}") for n in range(5)))
    build = await second.gateway.submit(REPOSITORY, "master", None)
    await decided(second, build)
    results = await asyncio.wait_for(asyncio.gather(*appends), WAIT_SECONDS)
    assert sorted(r.length or 0 for r in results) == list(range(window + 21, window + 26))
    assert second.gateway.unfinished == 0
    used = {decode_request(signed).timestamp for signed in network.asked[asked_before:]}
    assert {1, 2, 3, 4, 5} <= used <= {*range(1, 7), *range(window + 21, window + 27)}
    await second.close()


async def test_one_replica_alone_cannot_move_the_counter(network: Network, tmp_path: Path) -> None:
    first = await run_gateway(network, tmp_path / "first")
    window = network.cluster.genesis.client_window
    lost = [await first.gateway.append(f"{index}") for index in range(window + 3)]
    await asyncio.wait_for(asyncio.gather(*lost), 60)
    await first.close()
    network.alter = altered_reply(
        network, "replica-1", lambda reply: {"result": b"999999999"} if reply.kind == "used" else {}
    )
    second = await run_gateway(network, tmp_path / "second")
    result = await asyncio.wait_for(await second.gateway.append("new"), WAIT_SECONDS)
    assert result.length == window + 4
    assert max(decode_request(signed).timestamp for signed in network.asked) == window + 4
    await second.close()


async def test_replies_count_only_over_the_link_of_their_signer(running: Running) -> None:
    """Correct replicas never pass them on."""
    network = running.network
    names = network.cluster.replica_names
    brought: list[str] = []

    def by_another(name: str, envelope: Envelope) -> None:
        running.gateway.receive(names[names.index(name) - 1], [envelope])
        brought.append(name)

    network.alter = by_another
    answer = await running.gateway.append("hello")
    await until(lambda: set(brought) == set(names))
    # What is accepted waits for a turn, which answers at once: no reply can be anywhere else.
    assert not running.gateway._answers
    assert not answer.done()
    network.alter = lambda name, envelope: envelope
    assert (await asyncio.wait_for(answer, WAIT_SECONDS)).length == 1


async def test_a_role_that_is_missing_is_a_refusal_that_people_can_read(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        network.cluster, "roles", lambda name: ("replica",) if name != GATEWAY else ()
    )
    running = await run_gateway(network, tmp_path)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).refused is not None)
    view = build_view(record_of(running, build), [], [])
    assert view.status is BuildStatus.REFUSED
    assert "gateway" in (view.detail or "")
    assert running.gateway.unfinished == 0
    future = await running.gateway.append("x")
    assert "gateway" in ((await asyncio.wait_for(future, WAIT_SECONDS)).refused or "")
    await running.close()


async def test_appends_are_answered_in_order(running: Running) -> None:
    futures = [await running.gateway.append(text) for text in ("a", "b", "c")]
    results = [await asyncio.wait_for(future, WAIT_SECONDS) for future in futures]
    assert [result.length for result in results] == [1, 2, 3]
    node = running.network.nodes["replica-0"]
    await until(lambda: node.application.journal_length == 3)
    assert results[-1].digest == node.application.journal_digest.hex()


async def test_a_full_queue_refuses_and_takes_nothing(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")), 2)
    for _ in range(2):
        await running.gateway.submit(REPOSITORY, "master", None)
    with pytest.raises(QueueFull):
        await running.gateway.submit(REPOSITORY, "master", None)
    assert len(running.archive.page(None, 10)) == 2
    await running.close()


async def test_what_is_unfinished_goes_on_after_a_restart(network: Network, tmp_path: Path) -> None:
    """One build in every state: received, signed with the network away, opened."""
    for node in network.nodes.values():
        node.finds = lambda build: None
    first = await run_gateway(network, tmp_path)
    opened = await first.gateway.submit(REPOSITORY, "opened", None)
    await until(lambda: record_of(first, opened).opened_at is not None)
    network.gateway = None
    for node in network.nodes.values():
        node.is_down = True
    signed = await first.gateway.submit(REPOSITORY, "signed", None)
    await until(lambda: record_of(first, signed).signed_at is not None)
    first.gateway._commits._resolver = FixedResolver(Unreachable("down"))
    received = await first.gateway.submit(REPOSITORY, "received", None)
    await until(lambda: record_of(first, received).detail is not None)
    await first.close()

    for node in network.nodes.values():
        node.is_down = False
        node.finds = lambda build: passed()
    second = await run_gateway(network, tmp_path)
    for name in network.cluster.replica_names:
        second.gateway.on_connected(name)
    for build in (opened, signed, received):
        await decided(second, build)
    assert sorted(result_ids(second)) == sorted(b.hex() for b in (opened, signed, received))
    requests = [decode_request(signed) for signed in network.asked]
    operations = Counter({(r.timestamp, r.operation) for r in requests})
    assert len({timestamp for timestamp, _ in operations}) == len(operations)
    await second.close()


def altered_reply(
    network: Network, liar: str, change: Callable[[Reply], dict[str, object]]
) -> Callable[[str, Envelope], Envelope | None]:
    """What `liar` sends to the gateway, changed and signed with its own key."""

    def alter(name: str, envelope: Envelope) -> Envelope | None:
        message = decode_message(envelope.signed.payload)
        if name != liar or not isinstance(message, Replies):
            return envelope
        replies = tuple(
            msgspec.structs.replace(reply, **change(reply)) for reply in message.replies
        )
        changed = Replies(replies, message.replica)
        signed = sign_message(
            changed, encode_message(changed), Identity(network.cluster, name, key_of(name).sign)
        )
        return Envelope(signed)

    return alter


async def test_a_signature_that_does_not_hold_is_not_in_the_envelope(running: Running) -> None:
    """One replica replies rightly but garbles its attestation: the others complete it."""
    network = running.network
    network.alter = altered_reply(network, "replica-0", lambda reply: {"attestation": bytes(64)})
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: len(running.archive.replies(build)) == 4)
    attested = {r.replica: r.attestation is not None for r in running.archive.replies(build)}
    assert attested == {
        "replica-0": False,
        "replica-1": True,
        "replica-2": True,
        "replica-3": True,
    }


async def test_a_reply_with_another_verdict_is_shown_as_disagreeing(running: Running) -> None:
    network = running.network
    network.alter = altered_reply(
        network, "replica-3", lambda reply: {"result": b"{}"} if reply.kind == "decided" else {}
    )
    build = await running.gateway.submit(REPOSITORY, "master", None)
    record = await decided(running, build)
    assert json.loads(record.statement or b"")["predicate"]["result"] == "PASSED"
    for reply in running.archive.replies(build):
        assert reply.agrees == (reply.replica != "replica-3")


async def test_signatures_that_the_replies_lacked_are_asked_for_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.gateway.gateway.ATTEST_AGAIN_SECONDS", 0.1)
    network = running.network
    garbled = [
        altered_reply(network, name, lambda reply: {"attestation": bytes(64)})
        for name in network.nodes
    ]

    def alter(name: str, envelope: Envelope) -> Envelope | None:
        altered: Envelope | None = envelope
        for change in garbled:
            altered = change(name, envelope) if name in network.nodes else altered
            if altered is not envelope:
                return altered
        return altered

    network.alter = alter
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await decided(running, build)
    assert all(reply.attestation is None for reply in running.archive.replies(build))
    network.alter = lambda name, envelope: envelope
    await until(lambda: sum(r.attestation is not None for r in running.archive.replies(build)) >= 2)
    assert result_ids(running) == [build.hex()]


async def test_no_signatures_are_asked_for_of_a_build_that_was_swept_away(
    running: Running,
) -> None:
    """The archive's keeper may come in the seconds before they are asked for."""
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).collected)
    with running.database.transaction():
        running.archive.remove(build)
    assert running.gateway._answering.request_for_signatures(build) is None


async def test_a_verdict_about_another_build_is_not_accepted(running: Running) -> None:
    """Even where all replicas said so (which more than f faulty ones could)."""
    network = running.network
    green = await running.gateway.submit(REPOSITORY, "green", None)
    statement = (await decided(running, green)).statement
    changes = [
        altered_reply(
            network, name, lambda reply: {"result": statement} if reply.kind == "decided" else {}
        )
        for name in network.nodes
    ]

    def alter(name: str, envelope: Envelope) -> Envelope | None:
        for change in changes:
            altered = change(name, envelope)
            if altered is not envelope:
                return altered
        return envelope

    network.alter = alter
    build = await running.gateway.submit(REPOSITORY, "red", None)
    await until(lambda: "another build" in (record_of(running, build).detail or ""))
    assert record_of(running, build).statement is None
    assert result_ids(running) == [green.hex()]
    assert Outbox(running.database).tally().total == 1


@pytest.mark.parametrize(
    ("kind", "result", "used"),
    [
        ("used", b"300", 300),
        ("used", b"7", 7),
        ("used", b"6", None),  # below the number itself, which is used
        ("used", b"-300", None),
        ("used", b"", None),
        ("used", b"9" * 19, None),
        ("used", "\u0663".encode(), None),
        ("done", b"300", None),
    ],
)
def test_how_far_the_numbers_are_used(kind: str, result: bytes, used: int | None) -> None:
    assert used_up_to(Accepted(7, bytes(32), kind, b"", result, ())) == used
