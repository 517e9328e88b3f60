"""build_changes and the queue: cancel, supersede, approve, rebuild, and whose turn it is."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from ci.limits import Limits
from ci.operations import CancelBuild, Delivery, Event, Outcome, SubmitBuild, decode_operation
from ci.statement import parse_statement
from client.gateway.build_changes import CannotChange, rebuild_of
from client.gateway.resolve import Unreachable
from client.gateway.write_queue import QueueFull
from client.network.nodes import ServedBuild
from client.storage.archive import BuildRecord
from client.storage.build_request import BuildRequest
from client.storage.outbox import Kind, Outbox, State
from client.views.build_view import BuildStatus, build_view
from common.repositories.repository_config import GatewayRepository
from pbft.codec import decode_request
from tests.ci.builders import COMMIT
from tests.client.gateway.test_gateway import decided, record_of, until
from tests.client.running_network import (
    REPOSITORY,
    FixedResolver,
    Network,
    Running,
    gateway_on,
    passed,
    run_gateway,
)

OTHER = "https://example.org/other.git"


@pytest.fixture
async def superseding(network: Network, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway where a push supersedes older builds, on nodes that finish none."""
    nobody_finishes(network)
    running = await supersede(network, tmp_path)
    yield running
    await running.close()


@asynccontextmanager
async def operated(folder: Path, limits: Limits | None = None) -> AsyncIterator[Running]:
    """A gateway that is an operator too, on a network of its own."""
    network = Network(limits=limits, gateway_roles=("gateway", "operator"))
    async with gateway_on(network, folder) as running:
        yield running


async def supersede(network: Network, folder: Path) -> Running:
    return await run_gateway(
        network, folder, configured=[GatewayRepository(REPOSITORY, supersede=True)]
    )


def nobody_finishes(network: Network) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: None


def status_of(running: Running, build: bytes) -> str:
    return build_view(record_of(running, build), [], []).status


def detail_of(running: Running, build: bytes) -> str | None:
    return build_view(record_of(running, build), [], []).detail


def outcome_of(record: BuildRecord) -> Outcome:
    assert record.statement is not None
    return parse_statement(record.statement).verdict.outcome


def unfinished(running: Running) -> list[Kind]:
    return [row.kind for row in Outbox(running.database).unfinished()]


def operations(network: Network) -> list[object]:
    """What the network was asked for, each thing once, in its order."""
    seen = dict.fromkeys(decode_request(signed).operation for signed in network.asked)
    return [decode_operation(operation) for operation in seen]


async def open_build(running: Running, branch: str = "master", **more: object) -> bytes:
    wanted = BuildRequest(REPOSITORY, branch, COMMIT, **more)  # type: ignore[arg-type]
    build = (await running.gateway.order(wanted)).build
    await until(lambda: record_of(running, build).opened_at is not None)
    return build


async def test_an_open_build_is_cancelled_by_the_network(running: Running) -> None:
    nobody_finishes(running.network)
    build = await open_build(running)
    await running.gateway.cancel(build, "not wanted")
    record = await decided(running, build)
    assert outcome_of(record) is Outcome.CANCELLED
    assert status_of(running, build) == BuildStatus.DECIDED
    assert detail_of(running, build) == "not wanted"
    await until(lambda: unfinished(running) == [])
    for node in running.network.nodes.values():
        assert build not in node.application.open_builds()


async def test_while_the_network_is_told_the_build_says_so(running: Running) -> None:
    nobody_finishes(running.network)
    build = await open_build(running)
    for node in running.network.nodes.values():
        node.is_down = True
    await running.gateway.cancel(build, "not wanted")
    assert detail_of(running, build) == "not wanted; the network is being told"
    assert status_of(running, build) == BuildStatus.BUILDING


async def test_what_the_network_was_not_asked_for_ends_at_once(
    network: Network, tmp_path: Path
) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")))
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).detail is not None)
    await running.gateway.cancel(build, "not wanted")
    assert status_of(running, build) == BuildStatus.CANCELLED
    assert detail_of(running, build) == "not wanted"
    assert unfinished(running) == []
    assert network.asked == []
    await running.close()
    again = await run_gateway(network, tmp_path)
    assert status_of(again, build) == BuildStatus.CANCELLED
    assert again.gateway.unfinished == 0
    await again.close()


async def test_a_commit_that_is_found_after_the_cancel_changes_nothing(
    network: Network, tmp_path: Path
) -> None:
    resolver = FixedResolver(Unreachable("down"))
    running = await run_gateway(network, tmp_path, resolver)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).detail is not None)
    await running.gateway.cancel(build, "not wanted")
    questions = resolver.questions
    other = await running.gateway.submit(OTHER, "master", COMMIT)
    await decided(running, other)
    assert resolver.questions == questions
    assert record_of(running, build).commit is None
    assert status_of(running, build) == BuildStatus.CANCELLED
    await running.close()


async def test_a_build_that_is_asked_for_but_not_open_is_cancelled_once_it_is(
    network: Network, tmp_path: Path
) -> None:
    """Across a restart: the network knows no such build before it is open."""
    nobody_finishes(network)
    for node in network.nodes.values():
        node.is_down = True
    running = await run_gateway(network, tmp_path)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).signed_at is not None)
    await running.gateway.cancel(build, "not wanted")
    assert unfinished(running) == [Kind.BUILD, Kind.CANCEL]
    await running.close()
    for node in network.nodes.values():
        node.is_down = False
    again = await run_gateway(network, tmp_path)
    for name in network.cluster.replica_names:
        again.gateway.on_connected(name)
    record = await decided(again, build)
    assert outcome_of(record) is Outcome.CANCELLED
    asked = [type(operation) for operation in operations(network)]
    assert asked == [SubmitBuild, CancelBuild]
    await until(lambda: unfinished(again) == [])
    await again.close()


async def test_a_cancel_that_comes_too_late_changes_nothing(running: Running) -> None:
    build = await open_build(running)
    await decided(running, build)
    with pytest.raises(CannotChange, match="over already: passed"):
        await running.gateway.cancel(build, "not wanted")
    assert record_of(running, build).withdrawn is None


async def test_a_cancel_that_meets_the_verdict_leaves_the_verdict(running: Running) -> None:
    nobody_finishes(running.network)
    build = await open_build(running)
    for node in running.network.nodes.values():
        node.finds = lambda build: passed()
    await running.gateway.cancel(build, "not wanted")
    record = await decided(running, build)
    await until(lambda: unfinished(running) == [])
    expected = {Outcome.PASSED: None, Outcome.CANCELLED: "not wanted"}
    assert detail_of(running, build) == expected[outcome_of(record)]


async def test_cancelling_twice_asks_once(running: Running) -> None:
    nobody_finishes(running.network)
    build = await open_build(running)
    await running.gateway.cancel(build, "first")
    await running.gateway.cancel(build, "second")
    await decided(running, build)
    assert record_of(running, build).withdrawn == "first"
    assert sum(isinstance(o, CancelBuild) for o in operations(running.network)) == 1


async def test_a_withdrawn_build_that_the_network_had_no_room_for_is_over(
    tmp_path: Path,
) -> None:
    network = Network(limits=Limits(open_builds_per_client_max=1))
    await network.start()
    nobody_finishes(network)
    lost = await run_gateway(network, tmp_path / "lost")
    await open_build(lost)
    await lost.close()
    running = await run_gateway(network, tmp_path / "new")
    with running.database.transaction():
        running.database.write("UPDATE counter SET next_timestamp = 2")
    build = await running.gateway.submit(REPOSITORY, "more", COMMIT)
    await until(lambda: "full" in (record_of(running, build).detail or ""))
    await running.gateway.cancel(build, "not wanted")
    await until(lambda: status_of(running, build) == BuildStatus.CANCELLED)
    await until(lambda: unfinished(running) == [])
    assert record_of(running, build).withdrawn == "not wanted"
    await running.close()
    await network.close()


async def test_an_unknown_build_cannot_be_changed(running: Running) -> None:
    for change in (
        running.gateway.cancel(bytes(32), "x"),
        running.gateway.rebuild(bytes(32)),
    ):
        with pytest.raises(CannotChange, match="no such build"):
            await change


# --- rebuild --------------------------------------------------------------------------------------


async def test_a_rebuild_is_the_same_commit_as_another_build(running: Running) -> None:
    build = await open_build(running, "v1", event=Event.TAG, ref="refs/tags/v1")
    await decided(running, build)
    again = await running.gateway.rebuild(build)
    record = await decided(running, again)
    assert again != build
    assert record.rebuild_of == build
    assert (record.commit, record.event, record.ref) == (COMMIT, Event.TAG, "refs/tags/v1")
    assert running.archive.rebuilds(build) == [again]
    assert outcome_of(record) is Outcome.PASSED


def recorded(**changes: object) -> BuildRecord:
    values: dict[str, object] = {
        **dict.fromkeys(BuildRecord.__struct_fields__),
        "number": 1, "build": bytes(32), "repository": REPOSITORY, "branch": "main",
        "commit": COMMIT, "event": Event.PUSH, "received_at": 0.0, "collected": True,
    }  # fmt: skip
    return BuildRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_what_was_skipped_may_be_built_but_for_a_strangers_request() -> None:
    assert not rebuild_of(recorded(skipped="[skip ci]")).needs_approval
    assert rebuild_of(recorded(skipped="[skip ci]", event=Event.PULL_REQUEST)).needs_approval


# --- supersede ------------------------------------------------------------------------------------


async def test_a_newer_push_supersedes_the_older_ones_of_its_ref(superseding: Running) -> None:
    running = superseding
    running.gateway._allocator.undecided_max = 2
    other_branch = await open_build(running, "other")
    opened = await open_build(running)
    queued = (await running.gateway.order(BuildRequest(REPOSITORY, "master", COMMIT))).build
    # one was open and one queued; each of them makes the ones before it go
    await until(lambda: record_of(running, opened).withdrawn is not None)
    newest = (await running.gateway.order(BuildRequest(REPOSITORY, "master", COMMIT))).build
    assert record_of(running, queued).withdrawn == f"superseded by {newest.hex()}"
    assert record_of(running, opened).withdrawn == f"superseded by {queued.hex()}"
    record = await decided(running, opened)
    assert outcome_of(record) is Outcome.CANCELLED
    assert detail_of(running, opened) == f"superseded by {queued.hex()}"
    await until(lambda: record_of(running, newest).opened_at is not None)
    assert record_of(running, newest).withdrawn is None
    assert record_of(running, other_branch).withdrawn is None


async def test_other_refs_events_and_repositories_are_left_alone(superseding: Running) -> None:
    running = superseding
    others = [
        BuildRequest(REPOSITORY, "main", COMMIT, event=Event.TAG, ref="refs/tags/main"),
        BuildRequest(REPOSITORY, "main", COMMIT, event=Event.PULL_REQUEST, ref="refs/pull/7/head"),
        BuildRequest(OTHER, "main", COMMIT),
    ]
    builds = [(await running.gateway.order(wanted)).build for wanted in others]
    newest = (await running.gateway.order(BuildRequest(REPOSITORY, "main", COMMIT))).build
    assert [record_of(running, build).withdrawn for build in builds] == [None] * 3
    again = (await running.gateway.order(others[1])).build
    assert record_of(running, builds[1]).withdrawn == f"superseded by {again.hex()}"
    assert record_of(running, newest).withdrawn is None


def pushed(commit: str, before: str | None = None, event: Event = Event.PUSH) -> BuildRequest:
    """A push as a forge delivers it: known by (ref, commit), whatever was there before."""
    delivery = Delivery("github", bytes.fromhex(commit[:2]) * 32)
    return BuildRequest(REPOSITORY, "main", commit, event=event, delivery=delivery, before=before)


A, B, C, D = (letter * 40 for letter in "abcd")
CANCEL = "a person cancels the newest build"


async def ordered(running: Running, wanted: BuildRequest) -> tuple[bytes, bool]:
    submitted = await running.gateway.order(wanted)
    return submitted.build, submitted.is_new


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("deliveries", "withdrawn"),
    [
        pytest.param(
            [(A, "0" * 40, 0), (A, "0" * 40, 0), (B, A, 1), (B, A, 1), (A, B, 2), (A, B, 2),
             (B, A, 3), (B, A, 3), (A, B, 4), (A, B, 4)],
            {0: 1, 1: 2, 2: 3, 3: 4},
            id="pushed away and back, more than once, it is built again each time",
        ),
        pytest.param(
            # at the second (B, A), A was here before it; the last ones may be the head, since
            # nobody knows what was there before
            [(A, None, 0), (B, A, 1), (C, B, 2), (B, A, 1), (A, None, 3), (A, None, 3)],
            {0: 1, 1: 2},
            id="an old delivery that comes again supersedes nothing",
        ),
        pytest.param(
            [(A, None, 0), CANCEL, (A, None, 0), (B, A, 1), (A, None, 0), (A, B, 2)],
            {0: "not wanted", 1: 2},
            id="what a person cancelled stays so until it is pushed again",
        ),
        pytest.param(
            [(D, C, 0), (C, B, 1), (C[:-1] + "0", D, 2)],
            {0: 2, 1: 2},
            id="an older push that is delivered later leaves the newer alone",
        ),
        pytest.param(
            [(B, A, 0), (A, B, 1)],
            {0: 1},
            id="a push back to a commit that was never told supersedes",
        ),
    ],
)  # fmt: skip
async def test_what_pushes_to_a_branch_supersede(
    superseding: Running,
    deliveries: Sequence[tuple[str, str | None, int] | str],
    withdrawn: dict[int, int | str],
    is_open: bool,
) -> None:
    """deliveries: a commit, what was there before, and which build it is, from 0.

    withdrawn: of these builds, those that were superseded (by which build) or cancelled.
    """
    running = superseding
    if not is_open:
        running.gateway._allocator.undecided_max = 0
    builds: list[bytes] = []
    for delivery in deliveries:
        if isinstance(delivery, str):
            await running.gateway.cancel(builds[-1], "not wanted")
            continue
        commit, before, number = delivery
        build, is_new = await ordered(running, pushed(commit, before))
        assert is_new is (number == len(builds))
        if is_new:
            builds.append(build)
            if is_open:
                await until(lambda: record_of(running, builds[-1]).opened_at is not None)
        assert build == builds[number]
    for number, build in enumerate(builds):
        by = withdrawn.get(number)
        expected = f"superseded by {builds[by].hex()}" if isinstance(by, int) else by
        assert record_of(running, build).withdrawn == expected


async def test_a_commit_that_is_pushed_again_is_refused_where_the_queue_is_full(
    superseding: Running,
) -> None:
    """The forge is not told that the build which was withdrawn is this one."""
    first, _ = await ordered(superseding, pushed(A))
    second, _ = await ordered(superseding, pushed(B, A))
    superseding.gateway._write_queue._queue_max = 0
    assert await ordered(superseding, pushed(B, A)) == (second, False)
    with pytest.raises(QueueFull):
        await ordered(superseding, pushed(A, B))
    assert record_of(superseding, first).withdrawn is not None


async def test_nothing_is_superseded_unless_it_is_configured_or_by_a_rebuild(
    network: Network, tmp_path: Path
) -> None:
    nobody_finishes(network)
    running = await run_gateway(network, tmp_path)
    first = await open_build(running)
    await open_build(running)
    assert record_of(running, first).withdrawn is None
    await running.close()
    running = await supersede(network, tmp_path)
    await running.gateway.rebuild(first)
    assert record_of(running, first).withdrawn is None
    await running.close()


# --- approve --------------------------------------------------------------------------------------


async def test_an_operators_gateway_approves(tmp_path: Path) -> None:
    async with operated(tmp_path) as running:
        build = await open_build(running, needs_approval=True)
        assert "client approve" in (record_of(running, build).detail or "")
        await running.gateway.approve(build)
        await running.gateway.approve(build)
        record = await decided(running, build)
        assert outcome_of(record) is Outcome.PASSED
        assert not rebuild_of(record).needs_approval, "the same commit was approved"
        with pytest.raises(CannotChange, match="over already"):
            await running.gateway.approve(build)
        plain = await open_build(running, "plain")
        with pytest.raises(CannotChange, match=r"no approval|over already"):
            await running.gateway.approve(plain)


async def test_another_gateway_cannot_approve_and_can_cancel(running: Running) -> None:
    build = await open_build(running, needs_approval=True)
    with pytest.raises(CannotChange, match="is no operator"):
        await running.gateway.approve(build)
    await running.gateway.cancel(build, "spam")
    record = await decided(running, build)
    assert outcome_of(record) is Outcome.CANCELLED
    assert rebuild_of(record).needs_approval, "nobody has approved that commit"


async def test_an_approval_with_an_operators_own_key_is_seen_at_the_nodes(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f+1 of them say so: the page no longer tells that it waits, and it gives its place back."""
    monkeypatch.setattr("client.gateway.collector.GLANCE_SECONDS", 0.0)
    nobody_finishes(network)
    running = await run_gateway(network, tmp_path)
    build = await open_build(running, needs_approval=True)
    nodes = list(network.nodes.values())

    def is_open_everywhere() -> bool:
        return all(build in node.application.open_builds() for node in nodes)

    await until(is_open_everywhere)
    approving: set[str] = set()
    get_build = running.nodes.build

    async def build_of(replica: str, build: bytes) -> ServedBuild:
        answer = await get_build(replica, build)
        assert not answer.approved
        return msgspec.structs.replace(answer, approved=replica in approving)

    monkeypatch.setattr(running.nodes, "build", build_of)
    for name, waits in ((None, True), ("replica-0", True), ("replica-1", False)):
        approving |= {name} if name is not None else set()
        await running.collector.glance(build)
        assert running.gateway.waits_for_approval(build) is waits
        assert bool(record_of(running, build).detail) is waits
    tally = Outbox(running.database).tally()
    assert tally.builds(waits_for_approval=True).total() == 0
    await running.close()


LITTLE_ROOM = Limits(waiting_builds_per_client_max=2, open_builds_per_client_max=2)


async def order_strangers(running: Running, count: int) -> list[bytes]:
    """That many requests that wait for approval."""
    wanted = BuildRequest(REPOSITORY, "master", COMMIT, needs_approval=True)
    return [(await running.gateway.order(wanted)).build for _ in range(count)]


async def test_what_waits_for_approval_takes_no_others_place(tmp_path: Path) -> None:
    """Anybody can open requests; pushes are built all the same, and the rest wait here."""
    async with operated(tmp_path, LITTLE_ROOM) as running:
        nobody_finishes(running.network)
        strangers = await order_strangers(running, 5)
        await until(lambda: record_of(running, strangers[1]).opened_at is not None)
        push = await open_build(running, "push")
        assert record_of(running, strangers[2]).opened_at is None
        await running.gateway.cancel(push, "done")
        await decided(running, push)
        # approved, it is one of those that are built, and another one may wait in its place
        await running.gateway.approve(strangers[0])
        await until(lambda: record_of(running, strangers[2]).opened_at is not None)
        await running.gateway.cancel(strangers[1], "spam")
        await until(lambda: record_of(running, strangers[3]).opened_at is not None)
        assert record_of(running, strangers[4]).opened_at is None
        tally = Outbox(running.database).tally()
        under_way = (State.SIGNED, State.OPENED)
        assert tally.builds(*under_way).total() == 1
        assert tally.builds(*under_way, waits_for_approval=True).total() == 2


async def test_strangers_requests_that_wait_for_approval_take_nobodys_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.gateway.write_queue.WAITING_FOR_APPROVAL_MAX", 5)
    async with operated(tmp_path, LITTLE_ROOM) as running:
        strangers = await order_strangers(running, 5)
        with pytest.raises(QueueFull, match="5 builds of this repository are waiting for approval"):
            await order_strangers(running, 1)
        await until(lambda: record_of(running, strangers[0]).opened_at is not None)
        # the network would refuse more than it lets wait: the others wait here, in their order
        push = await running.gateway.submit(REPOSITORY, "master", COMMIT)
        await decided(running, push)
        assert record_of(running, strangers[4]).signed_at is None
        # whoever is approved, or given up, makes room for the next
        for build in strangers:
            await until(lambda build=build: record_of(running, build).opened_at is not None)  # type: ignore[misc]
            await running.gateway.approve(build)
            await decided(running, build)


# --- whose turn it is -----------------------------------------------------------------------------


def asked_repositories(network: Network) -> list[str]:
    return [o.repository for o in operations(network) if isinstance(o, SubmitBuild)]


async def submit_all(running: Running, repositories: Sequence[str]) -> list[bytes]:
    return [
        (await running.gateway.order(BuildRequest(repository, f"b{number}", COMMIT))).build
        for number, repository in enumerate(repositories)
    ]


async def test_thirty_builds_of_one_repository_do_not_delay_the_one_of_another(
    network: Network, tmp_path: Path
) -> None:
    running = await run_gateway(network, tmp_path)
    running.gateway._allocator.undecided_max = 2
    nobody_finishes(network)
    builds = await submit_all(running, [REPOSITORY] * 30)
    await until(lambda: len(asked_repositories(network)) == 2)
    late = (await submit_all(running, [OTHER]))[0]
    for node in network.nodes.values():
        node.finds = lambda build: passed()
    await decided(running, late)
    order = asked_repositories(network)
    assert order[:2] == [REPOSITORY] * 2
    assert order[2] == OTHER, "it is the very next"
    for build in builds:
        await decided(running, build)
    numbers = [
        int(o.branch[1:])
        for o in operations(network)
        if isinstance(o, SubmitBuild) and o.repository == REPOSITORY
    ]
    assert numbers == sorted(numbers), "of one repository in their order"
    await running.close()


async def test_a_repository_may_have_only_so_many_open(network: Network, tmp_path: Path) -> None:
    nobody_finishes(network)
    configured = [GatewayRepository(REPOSITORY, open_builds_max=1)]
    running = await run_gateway(network, tmp_path, configured=configured)
    builds = await submit_all(running, [REPOSITORY, REPOSITORY, OTHER])
    await until(lambda: record_of(running, builds[2]).opened_at is not None)
    assert asked_repositories(network) == [REPOSITORY, OTHER]
    for node in network.nodes.values():
        node.finds = lambda build: passed()
    await decided(running, builds[1])
    await running.close()


async def test_a_repository_has_a_queue_of_its_own(network: Network, tmp_path: Path) -> None:
    nobody_finishes(network)
    configured = [GatewayRepository(REPOSITORY, queue_max=2)]
    running = await run_gateway(network, tmp_path, configured=configured)
    builds = await submit_all(running, [REPOSITORY] * 2)
    with pytest.raises(QueueFull, match="2 builds of this repository"):
        await submit_all(running, [REPOSITORY])
    await submit_all(running, [OTHER] * 3)
    await running.gateway.cancel(builds[0], "make room")
    await decided(running, builds[0])
    await submit_all(running, [REPOSITORY])
    await running.close()
