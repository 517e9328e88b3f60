"""A replica's pending builds get one ballot each, whatever stops in between."""

from pathlib import Path

from ci.ballots import BALLOT
from ci.limits import Limits
from ci.operations import Abstain, Noop, Outcome
from pbft.codec import decode_request
from pbft.messages import Envelope
from tests.node.local_network import NAMES, Network, finding
from tests.waiting import wait_until


async def _decided(network: Network, verdicts: int = 1) -> None:
    await wait_until(
        lambda: all(network.verdicts(name) == verdicts for name in network.runtimes),
        f"{verdicts} verdicts on all",
    )


async def _closed(network: Network) -> None:
    await wait_until(
        lambda: not any(a.open_builds() for a in network.applications.values()), "closed builds"
    )


async def test_every_replica_builds_and_casts_one_ballot(network: Network) -> None:
    network.submit()
    await _decided(network)
    await _closed(network)
    for name in NAMES:
        assert len(network.runners[name].asked) == 1
        ballots = network.stores[name].ballots.of(network.runners[name].asked[0].build)
        assert [replica for _, replica, _ in ballots] == list(NAMES)
    assert len({a.ledger_head for a in network.applications.values()}) == 1


async def test_a_liar_is_outvoted(tmp_path: Path) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name, fault="lying" if name == "node3" else "allowed")
    network.submit()
    await _decided(network)
    entry = network.stores["node0"].ledger.entries(1, 10)[0].body
    assert b'"outcome":"passed"' in entry
    await network.close()


async def test_a_build_under_way_is_owed_again_after_a_restart(network: Network) -> None:
    network.runners["node2"].allowed.clear()
    network.submit()
    await wait_until(lambda: bool(network.runners["node2"].asked), "the build to begin")
    await network.stop("node2")
    assert len(network.runners["node2"].cancelled) == 1
    network.runners["node2"].allowed.set()
    network.start("node2")
    await _decided(network)
    await _closed(network)
    assert len(network.runners["node2"].asked) == 2


async def test_a_ballot_that_was_saved_is_sent_again_and_not_built_again(
    network: Network,
) -> None:
    network.cut.add("node2")
    network.submit()
    await wait_until(lambda: all(network.verdicts(n) for n in NAMES if n != "node2"), "verdicts")
    network.cut.clear()
    store = network.stores["node2"]
    await wait_until(lambda: bool(network.runners["node2"].asked), "node2 to hear of it")
    order = network.runners["node2"].asked[0]
    await wait_until(
        lambda: store.own_requests.find(BALLOT, order.build, order.opened) is not None, "its ballot"
    )
    await network.stop("node2")
    network.start("node2")
    await _closed(network)
    assert len(network.runners["node2"].asked) == 1


async def test_a_dispute_ends_by_itself(network: Network) -> None:
    for number, name in enumerate(NAMES):
        network.runners[name].ballot = finding(Outcome.FAILED, number + 1)
    network.submit()
    await _decided(network)
    assert b'"outcome":"disputed"' in network.stores["node0"].ledger.entries(1, 1)[0].body


async def test_a_build_that_nobody_finishes_is_disputed_at_its_deadline(tmp_path: Path) -> None:
    network = Network(tmp_path, Limits(deadline_seconds=1))
    for name in NAMES:
        network.start(name)
        network.runners[name].ballot = Abstain("no disk")
    network.runners["node0"].allowed.clear()
    network.submit()
    await _decided(network)
    assert b'"outcome":"disputed"' in network.stores["node0"].ledger.entries(1, 1)[0].body
    await network.close()


async def test_a_ballot_whose_number_was_used_before_is_cast_under_another(
    network: Network,
) -> None:
    """A replica that lost its disk counts from its low timestamp: what it sent above is unknown."""
    lost = [network.own_request("node2", timestamp, Noop()) for timestamp in (1, 2, 4, 5)]
    network.runners["node2"].allowed.clear()
    network.submit()
    await wait_until(lambda: bool(network.runners["node2"].asked), "the build to begin")
    for signed in lost[:2]:
        network.tell_all("node2", signed)
    clients = network.runtimes["node2"].replica.core.execution.clients
    await wait_until(lambda: clients.low_timestamp("node2") == 2, "what was said before the loss")
    # Number 3 is a hole; 4 and 5 were said too, but nobody has heard of them yet.
    network.cut.add("node2")
    network.runners["node2"].allowed.set()
    store = network.stores["node2"]
    await wait_until(lambda: store.own_requests.last_timestamp() == 3, "its ballot")
    others = [name for name in NAMES if name != "node2"]
    for name in others:
        network.runtimes[name].on_envelopes(
            "client", [Envelope(network.own_request("node2", 3, Noop()))]
        )
        for signed in lost[2:]:
            network.runtimes[name].on_envelopes("client", [Envelope(signed)])
    await wait_until(
        lambda: all(
            network.runtimes[name].replica.core.execution.clients.low_timestamp("node2") == 5
            for name in others
        ),
        "the numbers to be used up",
    )
    network.cut.clear()
    await _decided(network)
    await _closed(network)
    build = network.runners["node2"].asked[0].build
    assert len(network.runners["node2"].asked) == 1
    assert store.own_requests.last_timestamp() == 6
    ballot = [signed for _, replica, signed in store.ballots.of(build) if replica == "node2"]
    assert [decode_request(signed).timestamp for signed in ballot] == [6]
    await wait_until(lambda: store.own_requests.pending() == [], "nothing to send again")


async def test_numbers_that_are_executed_above_the_floor_are_left_out(
    network: Network,
) -> None:
    network.tell_all("node2", network.own_request("node2", 2, Noop()))
    clients = network.runtimes["node2"].replica.core.execution.clients
    await wait_until(lambda: clients.was_executed("node2", 2), "number 2")
    network.submit(1)
    network.submit(2)
    await _decided(network, 2)
    await _closed(network)
    assert network.stores["node2"].own_requests.last_timestamp() == 3
    assert clients.low_timestamp("node2") == 3


async def test_an_own_request_too_old_to_remember_is_settled_by_the_build(
    network: Network,
) -> None:
    network.submit()
    await _decided(network)
    await _closed(network)
    store = network.stores["node2"]
    order = network.runners["node2"].asked[0]
    request = store.own_requests.find(BALLOT, order.build, order.opened)
    assert request is not None
    clients = network.runtimes["node2"].replica.core.execution.clients
    for timestamp in range(2, 70):
        network.tell_all("node2", network.own_request("node2", timestamp, Noop()))
        if timestamp in (40, 69):
            await wait_until(
                lambda: clients.low_timestamp("node2") in (40, 69), "many more numbers"
            )
    await wait_until(lambda: clients.low_timestamp("node2") == 69, "all of them")
    assert clients.result("node2", 1) is None
    requests = network.schedulers["node2"]._requests
    requests.take_up([request])
    assert requests.settled() == [1]
