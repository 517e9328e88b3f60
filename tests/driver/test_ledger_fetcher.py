"""Missing ledger entries come page by page, of peers in turn, and nobody is believed."""

import pytest

from ci.ledger_gap import LedgerGap, LedgerPage, WrongEntries, shrink
from driver.ledger_fetcher import LedgerFetcher, PageRequest
from driver.ports import SaveFailed
from tests.node.chains import chain_of, page_of

CLUSTER = bytes(range(32))
CHAIN = chain_of(CLUSTER, 12)
TIMEOUT_SECONDS = 10.0


class Ledger:
    """A driver.ports.LedgerDisk that lacks entries 3 to 12."""

    def __init__(self) -> None:
        self.gap: LedgerGap | None = LedgerGap(3, 12, CHAIN[1].head, CHAIN[11].head)
        self.refuses = False

    def next_gap(self) -> LedgerGap | None:
        return self.gap

    def fill_gap(self, gap: LedgerGap, page: LedgerPage) -> bool:
        if self.refuses:
            raise SaveFailed("no space left on device")
        self.gap = shrink(gap, page)
        return self.gap is None


@pytest.fixture(name="ledger")
def fixture_ledger() -> Ledger:
    return Ledger()


def fetcher_of(ledger: Ledger) -> LedgerFetcher:
    return LedgerFetcher(ledger, ("a", "b", "c"), TIMEOUT_SECONDS)


def asked(fetcher: LedgerFetcher, now: float) -> PageRequest:
    request = fetcher.ask(now)
    assert request is not None
    return request


def test_a_gap_is_filled_from_its_end_by_peers_in_turn(ledger: Ledger) -> None:
    fetcher, peers, now = fetcher_of(ledger), [], 0.0
    while (request := fetcher.ask(now)) is not None:
        peers.append(request.peer)
        now += 1.0
        last = request.gap.last
        page = page_of(CLUSTER, CHAIN, max(3, last - 2), last)
        assert fetcher.on_page(request, page, now) == (ledger.gap is None)
    assert peers == ["a", "b", "c", "a"]
    assert ledger.gap is None


def test_peers_that_take_no_measurable_time_are_asked_in_turn_too(ledger: Ledger) -> None:
    fetcher, peers = fetcher_of(ledger), []
    for _ in range(6):
        request = asked(fetcher, 0.0)
        peers.append(request.peer)
        fetcher.on_failure(request)
    assert peers == ["a", "b", "c", "a", "b", "c"]


def test_one_request_is_under_way_at_a_time_until_its_time_is_over(ledger: Ledger) -> None:
    fetcher = fetcher_of(ledger)
    first = asked(fetcher, 0.0)
    assert fetcher.ask(TIMEOUT_SECONDS - 0.1) is None
    assert asked(fetcher, TIMEOUT_SECONDS).peer != first.peer


def test_an_answer_that_comes_too_late_is_dropped(ledger: Ledger) -> None:
    fetcher = fetcher_of(ledger)
    first = asked(fetcher, 0.0)
    second = asked(fetcher, TIMEOUT_SECONDS)
    page = page_of(CLUSTER, CHAIN, 3, 12)
    assert fetcher.on_page(first, page, 11.0) is None
    assert ledger.gap is not None
    assert fetcher.on_page(second, page, 11.0) is True
    assert fetcher.on_page(second, page, 12.0) is None, "it is answered"


@pytest.mark.parametrize(
    "page", [LedgerPage(b"", ()), page_of(CLUSTER, chain_of(CLUSTER, 12, wrong_from=6), 5, 12)]
)
def test_a_wrong_page_changes_nothing_and_the_next_peer_is_asked(
    ledger: Ledger, page: LedgerPage
) -> None:
    fetcher, gap = fetcher_of(ledger), ledger.gap
    first = asked(fetcher, 0.0)
    with pytest.raises(WrongEntries):
        fetcher.on_page(first, page, 1.0)
    assert ledger.gap == gap
    assert asked(fetcher, 1.5).peer == "b"


def test_a_disk_that_refuses_is_asked_for_the_same_again(ledger: Ledger) -> None:
    fetcher = fetcher_of(ledger)
    first = asked(fetcher, 0.0)
    ledger.refuses = True
    with pytest.raises(SaveFailed):
        fetcher.on_page(first, page_of(CLUSTER, CHAIN, 3, 12), 1.0)
    assert asked(fetcher, 2.0).gap == first.gap


def test_a_peer_is_charged_for_its_time_but_no_more_than_one_request_may_take(
    ledger: Ledger,
) -> None:
    """Our own process was stopped for an hour while `a` answered."""
    fetcher = fetcher_of(ledger)
    fetcher.on_failure(asked(fetcher, 0.0))
    peers, now = [], 3600.0
    for _ in range(9):
        request = asked(fetcher, now)
        peers.append(request.peer)
        now += 4.0
        fetcher.on_failure(request)
    assert peers == ["b", "c", "b", "c", "b", "c", "a", "b", "c"]


def test_a_whole_ledger_is_asked_of_nobody(ledger: Ledger) -> None:
    ledger.gap = None
    assert fetcher_of(ledger).ask(0.0) is None
    ledger.gap = LedgerGap(3, 12, CHAIN[1].head, CHAIN[11].head)
    assert LedgerFetcher(ledger, (), TIMEOUT_SECONDS).ask(0.0) is None
