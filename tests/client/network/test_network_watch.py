"""client.network.network_watch: since when one is silent, what is proved, and when that is told."""

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Callable

import pytest

import client.network.nodes
from client.network import network_watch
from client.network.limits_history import LimitsHistory
from client.network.network_view import NetworkView, Reach, ReplicaState
from client.network.network_watch import NetworkWatch
from client.network.node_status import NodeStatus
from client.network.nodes import NodeFailed, Nodes, ServedPair
from common.web.peers import Peers
from pbft.messages import Signed
from tests.ci.builders import FAILED
from tests.client.commands.test_commands import checkpoint, contradictions
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Network, Running

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")
LOOK_SECONDS = 60.0


class Linked:
    """The links of a gateway, as a test says."""

    def __init__(self) -> None:
        self.names = frozenset(NAMES)

    def __call__(self) -> frozenset[str]:
        return self.names


@pytest.fixture
def linked() -> Linked:
    return Linked()


@pytest.fixture
async def watch(
    network: Network, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NetworkWatch]:
    """It asks anew at each look."""
    monkeypatch.setattr(network_watch, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(client.network.nodes, "STATUS_TIMEOUT_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(network_watch, "EVIDENCE_AGAIN_SECONDS", 0.0)
    async with Nodes(Peers(network.addresses)) as nodes:
        watch = NetworkWatch(network.cluster, nodes, linked, limits=LimitsHistory(network.limits))
        yield watch
        await watch.close()


def of(view: NetworkView, name: str) -> ReplicaState:
    (found,) = [replica for replica in view.replicas if replica.replica == name]
    return found


def view_number(view: NetworkView, name: str) -> int | None:
    said = of(view, name).status
    return None if said is None else said.view


async def look_until(watch: NetworkWatch, condition: Callable[[NetworkView], bool]) -> NetworkView:
    """Look until it is so: a silent one is not waited for, and evidence comes by and by."""
    for _ in range(600):
        view = await watch.look(LOOK_SECONDS)
        if condition(view):
            return view
        await asyncio.sleep(0.1)
    raise AssertionError(f"in vain: {view}")


async def look_until_reach(watch: NetworkWatch, name: str, reach: Reach) -> ReplicaState:
    return of(await look_until(watch, lambda view: of(view, name).reach is reach), name)


async def test_all_that_answer_are_up(watch: NetworkWatch) -> None:
    view = await watch.look(LOOK_SECONDS)
    assert [replica.reach for replica in view.replicas] == [Reach.UP] * 4
    assert [replica.since for replica in view.replicas] == [None] * 4, "it may be up for long"
    assert all(replica.connected and replica.heard for replica in view.replicas)
    assert (view.level, view.needed, view.faults_max) == ("good", 3, 1)


async def test_a_clock_that_is_wrong_is_told(watch: NetworkWatch, network: Network) -> None:
    network.nodes["replica-2"].date = "Tue, 01 Jan 2030 00:00:00 GMT"
    view = await watch.look(LOOK_SECONDS)
    expected = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp() - time.time()
    assert of(view, "replica-2").ahead_seconds == pytest.approx(expected, abs=LOOK_SECONDS)
    assert (view.level, "the clock of replica-2 is" in view.sentence) == ("warning", True)
    network.nodes["replica-2"].date = "soon"
    assert of(await watch.look(LOOK_SECONDS), "replica-2").ahead_seconds is None


async def test_one_that_goes_away_is_down_since_then(
    watch: NetworkWatch, network: Network, linked: Linked
) -> None:
    before = of(await watch.look(LOOK_SECONDS), "replica-2")
    network.nodes["replica-2"].is_down = True
    linked.names -= {"replica-2"}
    down = await look_until_reach(watch, "replica-2", Reach.DOWN)
    assert down.status is None
    assert down.last == before.status
    assert down.since is not None
    assert down.since == down.heard, "its last answer"
    assert "503" in (down.error or "")
    assert "replica-2 is down since" in watch.view().sentence
    network.nodes["replica-2"].is_down = False
    up = await look_until_reach(watch, "replica-2", Reach.UP)
    assert (up.error, up.since is not None) == (None, True)


async def test_one_that_never_answered_is_down_for_nobody_knows_how_long(
    watch: NetworkWatch, network: Network
) -> None:
    network.nodes["replica-2"].is_down = True
    down = of(await watch.look(LOOK_SECONDS), "replica-2")
    assert (down.reach, down.since, down.heard, down.last) == (Reach.DOWN, None, None, None)
    assert "since before this gateway started" in watch.view().sentence


async def test_a_lost_answer_of_one_that_is_linked_is_late_and_then_down(
    watch: NetworkWatch, network: Network
) -> None:
    await watch.look(LOOK_SECONDS)
    network.nodes["replica-1"].is_down = True
    late = of(await watch.look(LOOK_SECONDS), "replica-1")
    assert late.reach is Reach.LATE
    assert (await look_until_reach(watch, "replica-1", Reach.DOWN)).connected


@pytest.mark.parametrize(
    "told", [{"node_id": "replica-0"}, {"cluster": "ab" * 32}, {"status": "<b>"}]
)
async def test_one_that_speaks_for_another_or_nonsense_gives_no_answer(
    watch: NetworkWatch, network: Network, told: dict[str, object]
) -> None:
    network.nodes["replica-3"].told = told
    view = await watch.look(LOOK_SECONDS)
    assert of(view, "replica-3").status is None
    assert of(view, "replica-3").error
    assert view.level == "bad"


async def test_who_disagreed_is_told_by_the_checked_ledger(
    watch: NetworkWatch, running: Running
) -> None:
    running.network.nodes["replica-3"].finds = lambda build: (FAILED, b"log")
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).collected)
    view = await look_until(watch, lambda view: of(view, "replica-3").dissent.dissents > 0)
    dissent = of(view, "replica-3").dissent
    assert [(told.build, told.found) for told in dissent.newest] == [(build.hex(), "failed 1")]
    assert of(view, "replica-0").dissent.dissents == 0
    assert "replica-3 disagreed with the newest verdict" in view.sentence


async def test_evidence_is_checked_here(watch: NetworkWatch, running: Running) -> None:
    first, second = contradictions(running, "replica-3", 2)
    for name in NAMES[:2]:
        running.network.nodes[name].evidence = [first, second]
    view = await look_until(
        watch,
        lambda view: [proof.held_by for proof in of(view, "replica-3").proofs] == [NAMES[:2]] * 2,
    )
    proofs = of(view, "replica-3")
    assert len(proofs.proofs) == 2
    assert proofs.proofs_count == 2
    assert "two different Checkpoint messages" in proofs.proofs[0].proves
    assert proofs.proofs[0].first.startswith("Checkpoint, sequence 1: digest 00")
    assert "replica-3 is proved to have signed contradictions" in view.sentence


async def test_what_came_before_a_page_that_failed_is_shown(
    watch: NetworkWatch, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node shows one page and no other, each time of fresh pairs: they convict all the same, and
    no more of them are kept than a whole answer may have."""
    monkeypatch.setattr(network_watch, "EVIDENCE_PAGES_MAX", 2)
    monkeypatch.setattr(network_watch, "EVIDENCE_PAGE_PAIRS", 2)
    node = running.network.nodes["replica-0"]
    node.evidence = contradictions(running, "replica-3", 9)
    ask, asked = watch.nodes.evidence_pages, []

    async def pages(
        replica: str, *, pages_max: int, pairs_max: int, bytes_max: int
    ) -> AsyncIterator[tuple[ServedPair, ...]]:
        asked.append(replica)
        async for page in ask(replica, pages_max=1, pairs_max=pairs_max, bytes_max=bytes_max):
            yield page
            node.evidence = node.evidence[1:] + node.evidence[:1]
            raise NodeFailed("the answer is too long")

    monkeypatch.setattr(watch.nodes, "evidence_pages", pages)
    await look_until(watch, lambda view: of(view, "replica-3").proofs_count == 2)
    await look_until(watch, lambda view: len(asked) >= 6)
    assert of(watch.view(), "replica-3").proofs_count == 4
    # and it is asked again, for all of it
    monkeypatch.setattr(watch.nodes, "evidence_pages", ask)
    node.evidence = node.evidence[:3]
    await look_until(watch, lambda view: of(view, "replica-3").proofs_count == 3)


async def test_what_a_node_calls_evidence_convicts_nobody(
    watch: NetworkWatch, running: Running
) -> None:
    (first, second), (other, _) = contradictions(running, "replica-3", 2)
    forged = Signed("replica-3", second.payload, bytes(64))
    node = running.network.nodes["replica-0"]
    innocent = checkpoint(running, "replica-2", 1, b"y" * 32)
    node.evidence = [(first, forged), (first, first), (first, other), (first, innocent)]
    await watch.look(LOOK_SECONDS)
    # two to a page, and one more page that is empty
    await until(lambda: node.served.count("/pbft/evidence") >= 3)
    for _ in range(5):
        view = await watch.look(LOOK_SECONDS)
        assert not any(replica.proofs for replica in view.replicas)


async def test_what_changes_is_told_once(
    watch: NetworkWatch, network: Network, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    watch.on_change = lambda: told.append(asyncio.get_running_loop().time())
    await watch.look(LOOK_SECONDS)
    count = len(told)
    assert count
    await watch.look(LOOK_SECONDS)
    assert len(told) == count, "nothing is new"
    monkeypatch.setattr(network_watch, "LINK_SECONDS", 0.02)
    watch.start()
    linked.names -= {"replica-1"}
    await until(lambda: len(told) > count)
    count = len(told)
    network.nodes["replica-2"].told = {"view": 7}
    await look_until(watch, lambda view: view_number(view, "replica-2") == 7)
    assert len(told) > count


async def test_the_replicas_are_looked_at_after_any_fault(
    watch: NetworkWatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network_watch, "LINK_SECONDS", 0.01)
    monkeypatch.setattr(network_watch, "ASK_SECONDS", 0.02)
    status_of, faults = watch.nodes.status_and_clock, [ZeroDivisionError()]

    async def status_or_fault(replica: str) -> tuple[NodeStatus, float | None]:
        if faults:
            raise faults.pop()
        return await status_of(replica)

    monkeypatch.setattr(watch.nodes, "status_and_clock", status_or_fault)
    watch.start()
    await until(lambda: all(replica.reach is Reach.UP for replica in watch.view().replicas))
    assert "ZeroDivisionError" in caplog.text


async def test_many_who_look_at_once_cost_the_nodes_one_question(
    watch: NetworkWatch, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_watch, "FRESH_SECONDS", 600.0)
    await asyncio.gather(*(watch.look(LOOK_SECONDS) for _ in range(50)))
    assert [node.served.count("/pbft/status") for node in network.nodes.values()] == [1] * 4


async def test_the_replicas_are_asked_more_often_while_somebody_looks(
    watch: NetworkWatch, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_watch, "LINK_SECONDS", 0.01)
    monkeypatch.setattr(network_watch, "ASK_SECONDS", 1e9)
    monkeypatch.setattr(network_watch, "ASK_FOLLOWED_SECONDS", 0.02)

    def asked() -> int:
        return network.nodes["replica-0"].served.count("/pbft/status")

    rounds = 0

    def nobody_looks() -> bool:
        nonlocal rounds
        rounds += 1
        return False

    watch.is_followed = nobody_looks
    watch.start()
    await until(lambda: rounds > 20)
    assert asked() == 1, "at the start, and not again"
    watch.is_followed = lambda: True
    await until(lambda: asked() > 5)
