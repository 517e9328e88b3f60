"""common.fair_turns: who holds least, then who was served longest ago."""

from collections import Counter

from common.fair_turns import FairTurns


def test_who_holds_least_is_next() -> None:
    turns = FairTurns()
    assert turns.next(["a", "b", "c"], {"a": 2, "b": 1, "c": 3}) == "b"
    assert turns.next(["a", "b"], {"a": 2}) == "b"


def test_at_equal_holdings_they_take_turns() -> None:
    turns = FairTurns()
    assert [turns.next("abc", {}) for _ in range(7)] == list("abcabca")


def test_a_crowd_of_one_does_not_delay_another() -> None:
    """Thirty wait for a; the one of b that comes later is the very next."""
    turns = FairTurns()
    waiting = Counter({"a": 30})
    order = []
    for step in range(6):
        if step == 3:
            waiting["b"] = 1
        chosen = turns.next(+waiting, {"a": 1})
        waiting[chosen] -= 1
        order.append(chosen)
    assert order == ["a", "a", "a", "b", "a", "a"]


def test_only_those_that_wait_or_hold_are_remembered() -> None:
    turns = FairTurns()
    for number in range(10_000):
        turns.next([str(number)], {"holder": 1})
    assert len(turns._served) <= 2
