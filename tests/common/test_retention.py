"""common.retention: the oldest go first, each for the first reason that holds."""

from hypothesis import given
from hypothesis import strategies as st

from common.retention import KeepRules, KeptItem, Surplus, find_surplus

ITEMS = [KeptItem("c", 30, 5), KeptItem("a", 10, 5), KeptItem("d", 40, 5), KeptItem("b", 20, 5)]


def test_without_rules_all_is_kept() -> None:
    assert find_surplus(ITEMS, KeepRules(), 10**9) == Surplus()


def test_by_age() -> None:
    assert find_surplus(ITEMS, KeepRules(seconds_max=25), 45).too_old == ("a",)
    assert find_surplus(ITEMS, KeepRules(seconds_max=25), 45.1).too_old == ("a", "b")
    assert find_surplus(ITEMS, KeepRules(seconds_max=25), 0).names == ()


def test_by_number() -> None:
    assert find_surplus(ITEMS, KeepRules(items_max=3), 0).too_many == ("a",)
    assert find_surplus(ITEMS, KeepRules(items_max=4), 0).names == ()


def test_by_size() -> None:
    assert find_surplus(ITEMS, KeepRules(bytes_max=20), 0).names == ()
    assert find_surplus(ITEMS, KeepRules(bytes_max=19), 0).too_large == ("a",)
    assert find_surplus(ITEMS, KeepRules(bytes_max=9), 0).too_large == ("a", "b", "c")


def test_each_goes_for_one_reason_and_is_counted() -> None:
    rules = KeepRules(items_max=2, bytes_max=5, seconds_max=32)
    surplus = find_surplus(ITEMS, rules, 45)
    assert surplus == Surplus(("a",), ("b",), ("c",))
    assert surplus.in_words() == (
        "1 too old, 1 more than may be kept, 1 beyond the size that all may have"
    )


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), max_size=20),
    st.integers(0, 10),
    st.integers(0, 300),
    st.integers(0, 100),
)
def test_what_stays_keeps_the_rules_and_is_newer_than_what_goes(
    sizes: list[tuple[int, int]], items_max: int, bytes_max: int, seconds_max: int
) -> None:
    items = {f"{n:03}": KeptItem(f"{n:03}", at, size) for n, (at, size) in enumerate(sizes)}
    rules = KeepRules(items_max, bytes_max, seconds_max)
    names = find_surplus(items.values(), rules, 100).names
    assert len(set(names)) == len(names)
    gone = [items[name] for name in names]
    kept = [item for item in items.values() if item.name not in names]
    assert len(kept) <= items_max
    assert sum(item.bytes for item in kept) <= bytes_max
    assert all(100 - item.at <= seconds_max for item in kept)
    assert all(old.at <= new.at for old in gone for new in kept)
