"""A gap takes only what is proved by the head at its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.ledger import genesis_head
from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries, shrink
from pbft.ports import Entry
from tests.node.chains import chain_of, page_of

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 30)
OTHER = chain_of(CLUSTER, 30, wrong_from=6)
GAP = LedgerGap(4, 20, CHAIN[2].head, CHAIN[19].head)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_pages_of_any_size_fill_it_from_its_end(sizes: list[int]) -> None:
    gap: LedgerGap | None = GAP
    turn = 0
    while gap is not None:
        first = max(gap.first, gap.last - sizes[turn % len(sizes)] + 1)
        gap = shrink(gap, page_of(CLUSTER, CHAIN, first, gap.last))
        assert (gap.missing if gap is not None else 0) == first - GAP.first
        turn += 1


BENT = Entry(18, CHAIN[17].body + b" ", CHAIN[17].head)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (LedgerPage(CHAIN[2].head, ()), "no entries"),
        (page_of(CLUSTER, CHAIN, 4, 19), "instead of the last up to 20"),
        (page_of(CLUSTER, CHAIN, 15, 21), "instead of the last up to 20"),
        (page_of(CLUSTER, CHAIN, 3, 20), "instead of the last up to 20"),
        (LedgerPage(CHAIN[15].head, (CHAIN[16], CHAIN[18], CHAIN[19])), "entry 18"),
        (LedgerPage(CHAIN[16].head, (BENT, *CHAIN[18:20])), "entry 18"),
        (LedgerPage(bytes(32), tuple(CHAIN[15:20])), "entry 16"),
        (LedgerPage(b"", tuple(CHAIN[15:20])), "entry 16"),
        (page_of(CLUSTER, OTHER, 15, 20), "does not end at the certified head"),
    ],
)
def test_any_other_page_is_wrong(page: LedgerPage, reason: str) -> None:
    with pytest.raises(WrongEntries, match=reason):
        shrink(GAP, page)


def test_a_chain_that_leads_elsewhere_is_wrong_at_its_beginning() -> None:
    """Then what is before the gap is not what led to the certified head: nobody else's fault."""
    gap = LedgerGap(4, 20, genesis_head(CLUSTER), CHAIN[19].head)
    with pytest.raises(WrongEntries, match="does not begin at our own head"):
        shrink(gap, page_of(CLUSTER, CHAIN, 4, 20))
