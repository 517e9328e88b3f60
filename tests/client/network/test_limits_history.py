"""client.network.limits_history: which limits held when, from ledger entries that were checked."""

import msgspec

from ci.ledger import LimitsEntry, decode_entry, encode_entry
from ci.limits import Limits
from client.network.limits_history import LimitsHistory
from client.views.ledger_view import entry_views
from pbft.ports import Entry
from tests.ci.operated_world import NEW, OLD, OperatedWorld


def test_a_build_has_the_limits_of_the_last_change_before_it() -> None:
    world = OperatedWorld()
    first, last = Limits(pids_max=99), NEW
    for limits in (first, last):
        world.open()
        world.change(limits)
    told: list[Limits] = []
    history = LimitsHistory(OLD)
    history.on_change = told.append
    history.feed(world.ledger)
    changes = [decode_entry(entry.body) for entry in world.ledger]
    since = [change.since for change in changes if isinstance(change, LimitsEntry)]
    assert [history.at(opened) for opened in (1, since[0], since[0] + 1)] == [OLD, OLD, first]
    assert [history.at(opened) for opened in (since[1], since[1] + 1)] == [first, last]
    assert history.now == last
    assert told == [last]


def test_what_this_version_cannot_read_changes_nothing() -> None:
    world = OperatedWorld()
    entry = world.change(NEW)
    newer = msgspec.structs.replace(entry, limits={**entry.limits, "moons_max": 3})
    history = LimitsHistory(OLD)
    history.feed([Entry(1, b"{}", bytes(32)), Entry(2, encode_entry(newer), bytes(32))])
    assert history.now == OLD


def test_the_ledger_page_shows_who_changed_the_limits_and_to_what() -> None:
    world = OperatedWorld()
    world.change(NEW)
    (view,) = entry_views(world.ledger, bytes(32))
    assert (view.kind, view.by) == ("limits", "anna, boris, carla")
    assert "deadline_seconds 60" in view.text
    assert "executors all" in view.text
