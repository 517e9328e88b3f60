"""Ledgers for tests: chains of entries, and the state's part that names one's end."""

import msgspec

from ci.ledger import AppendEntry, encode_entry, genesis_head, next_head
from ci.ledger_gap import LedgerPage
from ci.state_partitions import LEDGER_PART
from pbft.ports import Entry


def chain_of(cluster_id: bytes, count: int, wrong_from: int | None = None) -> list[Entry]:
    """That many entries; with other texts from index `wrong_from` on, chained all the same."""
    head = genesis_head(cluster_id)
    entries = []
    for index in range(1, count + 1):
        is_wrong = wrong_from is not None and index >= wrong_from
        text = f"{'wrong' if is_wrong else 'text'} {index}"
        body = encode_entry(AppendEntry("client", text, index, "00" * 32))
        head = next_head(head, index, body)
        entries.append(Entry(index, body, head))
    return entries


def page_of(cluster_id: bytes, entries: list[Entry], first: int, last: int) -> LedgerPage:
    """The entries `first` to `last` of a whole chain, as a peer gives them."""
    before = entries[first - 2].head if first > 1 else genesis_head(cluster_id)
    return LedgerPage(before, tuple(entries[first - 1 : last]))


def ledger_parts(index: int, head: bytes) -> dict[str, bytes]:
    """Of a state's parts the one that says where the ledger stands."""
    return {LEDGER_PART: msgspec.msgpack.encode((index, head))}
