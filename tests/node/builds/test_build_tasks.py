"""A replica's pending builds get one ballot each, whatever stops in between."""

from pathlib import Path

from ci.ballots import BALLOT
from ci.limits import Limits
from ci.operations import Abstain, Noop, Outcome
from pbft.codec import decode_request
from pbft.messages import Envelope
from tests.node.house import NAMES, House, finding
from tests.waiting import wait_until


async def _decided(house: House, verdicts: int = 1) -> None:
    await wait_until(
        lambda: all(house.verdicts(name) == verdicts for name in house.runtimes),
        f"{verdicts} verdicts on all",
    )


async def _closed(house: House) -> None:
    await wait_until(
        lambda: not any(a.open_builds() for a in house.applications.values()), "closed builds"
    )


async def test_every_replica_builds_and_casts_one_ballot(house: House) -> None:
    house.submit()
    await _decided(house)
    await _closed(house)
    for name in NAMES:
        assert len(house.runners[name].asked) == 1
        ballots = house.stores[name].ballots.of(house.runners[name].asked[0].build)
        assert [replica for _, replica, _ in ballots] == list(NAMES)
    assert len({a.ledger_head for a in house.applications.values()}) == 1


async def test_a_liar_is_outvoted(tmp_path: Path) -> None:
    house = House(tmp_path)
    for name in NAMES:
        house.start(name, fault="lying" if name == "node3" else "allowed")
    house.submit()
    await _decided(house)
    entry = house.stores["node0"].ledger.entries(1, 10)[0].body
    assert b'"outcome":"passed"' in entry
    await house.close()


async def test_a_build_under_way_is_owed_again_after_a_restart(house: House) -> None:
    house.runners["node2"].allowed.clear()
    house.submit()
    await wait_until(lambda: bool(house.runners["node2"].asked), "the build to begin")
    await house.stop("node2")
    assert len(house.runners["node2"].cancelled) == 1
    house.runners["node2"].allowed.set()
    house.start("node2")
    await _decided(house)
    await _closed(house)
    assert len(house.runners["node2"].asked) == 2


async def test_a_ballot_that_was_saved_is_sent_again_and_not_built_again(house: House) -> None:
    house.cut.add("node2")
    house.submit()
    await wait_until(lambda: all(house.verdicts(n) for n in NAMES if n != "node2"), "verdicts")
    house.cut.clear()
    store = house.stores["node2"]
    await wait_until(lambda: bool(house.runners["node2"].asked), "node2 to hear of it")
    order = house.runners["node2"].asked[0]
    await wait_until(
        lambda: store.own_requests.find(BALLOT, order.build, order.opened) is not None, "its ballot"
    )
    await house.stop("node2")
    house.start("node2")
    await _closed(house)
    assert len(house.runners["node2"].asked) == 1


async def test_a_dispute_ends_by_itself(house: House) -> None:
    for number, name in enumerate(NAMES):
        house.runners[name].ballot = finding(Outcome.FAILED, number + 1)
    house.submit()
    await _decided(house)
    assert b'"outcome":"disputed"' in house.stores["node0"].ledger.entries(1, 1)[0].body


async def test_a_build_that_nobody_finishes_is_disputed_at_its_deadline(tmp_path: Path) -> None:
    house = House(tmp_path, Limits(deadline_seconds=1))
    for name in NAMES:
        house.start(name)
        house.runners[name].ballot = Abstain("no disk")
    house.runners["node0"].allowed.clear()
    house.submit()
    await _decided(house)
    assert b'"outcome":"disputed"' in house.stores["node0"].ledger.entries(1, 1)[0].body
    await house.close()


async def test_a_ballot_whose_number_was_used_before_is_cast_under_another(house: House) -> None:
    """A replica that lost its disk counts from its low timestamp: what it sent above is unknown."""
    lost = [house.own_request("node2", timestamp, Noop()) for timestamp in (1, 2, 4, 5)]
    house.runners["node2"].allowed.clear()
    house.submit()
    await wait_until(lambda: bool(house.runners["node2"].asked), "the build to begin")
    for signed in lost[:2]:
        house.tell_all("node2", signed)
    clients = house.runtimes["node2"].replica.core.execution.clients
    await wait_until(lambda: clients.low_timestamp("node2") == 2, "what was said before the loss")
    # Number 3 is a hole; 4 and 5 were said too, but nobody has heard of them yet.
    house.cut.add("node2")
    house.runners["node2"].allowed.set()
    store = house.stores["node2"]
    await wait_until(lambda: store.own_requests.last_timestamp() == 3, "its ballot")
    others = [name for name in NAMES if name != "node2"]
    for name in others:
        house.runtimes[name].on_envelopes(
            "client", [Envelope(house.own_request("node2", 3, Noop()))]
        )
        for signed in lost[2:]:
            house.runtimes[name].on_envelopes("client", [Envelope(signed)])
    await wait_until(
        lambda: all(
            house.runtimes[name].replica.core.execution.clients.low_timestamp("node2") == 5
            for name in others
        ),
        "the numbers to be used up",
    )
    house.cut.clear()
    await _decided(house)
    await _closed(house)
    build = house.runners["node2"].asked[0].build
    assert len(house.runners["node2"].asked) == 1
    assert store.own_requests.last_timestamp() == 6
    ballot = [signed for _, replica, signed in store.ballots.of(build) if replica == "node2"]
    assert [decode_request(signed).timestamp for signed in ballot] == [6]
    await wait_until(lambda: store.own_requests.pending() == [], "nothing to send again")


async def test_numbers_that_are_executed_above_the_floor_are_left_out(house: House) -> None:
    house.tell_all("node2", house.own_request("node2", 2, Noop()))
    clients = house.runtimes["node2"].replica.core.execution.clients
    await wait_until(lambda: clients.was_executed("node2", 2), "number 2")
    house.submit(1)
    house.submit(2)
    await _decided(house, 2)
    await _closed(house)
    assert house.stores["node2"].own_requests.last_timestamp() == 3
    assert clients.low_timestamp("node2") == 3


async def test_an_own_request_too_old_to_remember_is_settled_by_the_build(house: House) -> None:
    house.submit()
    await _decided(house)
    await _closed(house)
    store = house.stores["node2"]
    order = house.runners["node2"].asked[0]
    request = store.own_requests.find(BALLOT, order.build, order.opened)
    assert request is not None
    clients = house.runtimes["node2"].replica.core.execution.clients
    for timestamp in range(2, 70):
        house.tell_all("node2", house.own_request("node2", timestamp, Noop()))
        if timestamp in (40, 69):
            await wait_until(
                lambda: clients.low_timestamp("node2") in (40, 69), "many more numbers"
            )
    await wait_until(lambda: clients.low_timestamp("node2") == 69, "all of them")
    assert clients.result("node2", 1) is None
    requests = house.schedulers["node2"]._requests
    requests.take_up([request])
    assert requests.settled() == [1]
