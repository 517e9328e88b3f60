"""client.network.dissent: who differed, told by the ledger that real applications wrote."""

import msgspec

from ci.operations import Abstain, Ballot, Outcome, UsedCache
from client.network.dissent import RECENT_VERDICTS, TOLD_MAX, DissentHistory
from pbft.ports import Entry
from tests.ci.builders import FAILED, PASSED, World, finding, with_caches


def history_of(entries: list[Entry]) -> DissentHistory:
    history = DissentHistory()
    for entry in entries:
        history.feed(entry)
    return history


def test_dissent_counts_before_and_after_the_verdict_and_abstention_apart() -> None:
    world = World()
    early = world.open(1)
    for index, ballot in enumerate((FAILED, PASSED, PASSED, PASSED)):
        world.cast(early, index, ballot)
    late = world.open(2)
    warm = with_caches(FAILED, UsedCache("venv", b"\xab" * 32))
    for index, ballot in enumerate((PASSED, PASSED, PASSED, warm)):
        world.cast(late, index, ballot)
    unable = world.open(3)
    abstain = Abstain("no disk\n")
    cast: tuple[Ballot, ...] = (PASSED, abstain, PASSED, PASSED)
    for index, said in enumerate(cast):
        world.cast(unable, index, said)
    history = history_of(world.ledger)
    assert history.verdicts == 3
    assert {history.of(f"replica-{index}").recent_verdicts for index in range(4)} == {3}
    first, second, third, last = (history.of(f"replica-{index}") for index in range(4))
    assert (first.dissents, first.abstentions, first.recent_dissents) == (1, 0, 1)
    assert (first.newest[0].build, first.newest[0].found) == (early.hex(), "failed 1")
    assert (second.dissents, second.abstentions, second.recent_abstentions) == (0, 1, 1)
    assert (second.newest[0].abstained, second.newest[0].found) == (True, "no disk\\n")
    assert (third.dissents, third.abstentions, third.newest) == (0, 0, ())
    assert (last.dissents, last.newest[0].build) == (1, late.hex())
    assert last.newest[0].found == "failed 1, with a cache from build abababababab"


def test_the_log_of_the_verdicts_side_with_another_outcome_is_counted_apart() -> None:
    """Before and after the verdict; not one with a log of its own, nor with the same outcome."""
    world = World()
    same, other = finding(Outcome.FAILED, 1, log="log"), finding(Outcome.FAILED, 1, log="red")
    early = world.open(1)
    for index, ballot in enumerate((same, PASSED, PASSED, PASSED)):
        world.cast(early, index, ballot)
    late = world.open(2)
    for index, ballot in enumerate((PASSED, PASSED, PASSED, same)):
        world.cast(late, index, ballot)
    flaky = world.open(3)
    for index, ballot in enumerate((PASSED, other, PASSED, PASSED)):
        world.cast(flaky, index, ballot)
    image = msgspec.structs.replace(
        PASSED, compared=msgspec.structs.replace(PASSED.compared, image_digest="sha256:" + "0" * 64)
    )
    reproducible = world.open(4)
    for index, ballot in enumerate((PASSED, PASSED, image, PASSED)):
        world.cast(reproducible, index, ballot)
    history = history_of(world.ledger)
    told = [history.of(f"replica-{index}") for index in range(4)]
    assert [view.dissents for view in told] == [1, 1, 1, 1]
    assert [view.suspect_dissents for view in told] == [1, 0, 0, 1]
    assert [view.newest[0].has_same_log for view in told] == [True, False, False, True]
    assert history.copy().of("replica-0").suspect_dissents == 1


def test_what_is_long_ago_is_counted_and_no_longer_recent() -> None:
    world = World()
    for number in range(1, TOLD_MAX + 3):
        build = world.open(number)
        for index, ballot in enumerate((FAILED, PASSED, PASSED, PASSED)):
            world.cast(build, index, ballot)
    told = history_of(world.ledger).of("replica-0")
    assert (told.dissents, len(told.newest)) == (TOLD_MAX + 2, TOLD_MAX)
    assert told.newest[0].entry > told.newest[-1].entry, "the newest first"
    for number in range(TOLD_MAX + 3, TOLD_MAX + 3 + RECENT_VERDICTS):
        build = world.open(number)
        for index in range(4):
            world.cast(build, index, PASSED)
    told = history_of(world.ledger).of("replica-0")
    assert (told.dissents, told.recent_dissents) == (TOLD_MAX + 2, 0)
    assert told.recent_verdicts == RECENT_VERDICTS


def test_a_copy_goes_its_own_way() -> None:
    world = World()
    build = world.open(1)
    for index, ballot in enumerate((FAILED, PASSED, PASSED, PASSED)):
        world.cast(build, index, ballot)
    history = DissentHistory()
    copy = history.copy()
    for entry in world.ledger:
        copy.feed(entry)
    assert (history.verdicts, history.of("replica-0").dissents) == (0, 0)
    assert (copy.verdicts, copy.of("replica-0").dissents) == (1, 1)


def test_what_cannot_be_read_tells_nothing() -> None:
    history = history_of([Entry(1, b"{}", bytes(32)), Entry(2, b'{"type":"verdict"', bytes(32))])
    assert history.verdicts == 0


def test_where_nothing_was_agreed_on_nobody_differs() -> None:
    world = World()
    build = world.open(1)
    cast: tuple[Ballot, ...] = (Abstain("a"), Abstain("b"), FAILED, PASSED)
    for index, ballot in enumerate(cast):
        world.cast(build, index, ballot)
    history = history_of(world.ledger)
    assert history.verdicts == 1
    assert [history.of(f"replica-{index}").dissents for index in range(4)] == [0, 0, 0, 0]
    assert [history.of(f"replica-{index}").abstentions for index in range(4)] == [1, 1, 0, 0]
