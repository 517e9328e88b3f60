"""client.dashboard.ledger_page: the checked chain, and what is said where it is not checked."""

import re

import pytest

from ci.ledger import (
    AnyEntry,
    AppendEntry,
    CancelEntry,
    LateBallotEntry,
    RecordedBallot,
    encode_entry,
    next_head,
)
from client.dashboard.ledger_page import LedgerPlace, place_of
from client.network.ledger_check import LedgerCheck, Stretch
from client.views.ledger_view import entry_views
from pbft.ports import Entry
from tests.ci.builders import FAILED
from tests.client.commands.test_commands import certify
from tests.client.dashboard.pages import page, page_when
from tests.client.gateway.test_gateway import record_of, until
from tests.client.network.test_ledger_check import chain, serve
from tests.client.running_network import REPOSITORY, Network, Running
from tests.client.site import Client, decided_build

PATH = "/ledger"
HOSTILE = "<img/src=x>&\"'"


def claim(network: Network, ledger: list[Entry], *names: str) -> None:
    """Let these nodes (all, by default) serve that ledger, and say so in their status."""
    serve(network, ledger, *names)
    for name in names or tuple(network.nodes):
        told = {"ledger_index": len(ledger), "ledger_head": ledger[-1].head.hex()}
        network.nodes[name].told = dict(told)


def rows(text: str) -> list[int]:
    return [int(found) for found in re.findall(r'<tr id="entry-(\d+)"', text)]


def row(text: str, index: int) -> str:
    return text.split(f'<tr id="entry-{index}"')[1].split("</tr>")[0]


async def test_an_empty_ledger(client: Client) -> None:
    text = await page_when(client, PATH, lambda text: "The ledger is empty" in text)
    assert "ledger --verify" in text
    assert "<table" not in text


async def test_verdicts_are_shown_with_their_builds(running: Running, client: Client) -> None:
    running.network.nodes["replica-3"].finds = lambda build: (FAILED, b"log")
    build = await decided_build(running, client, HOSTILE)
    ledger = running.network.nodes["replica-0"].ledger
    await until(lambda: len(ledger) == 2)
    text = await page_when(client, PATH, lambda text: rows(text) == [2, 1])
    assert "Verified by this gateway" in text
    assert "replica-0, replica-1, replica-2, replica-3 gave the same head for entry 2" in text
    assert "no certificate yet" in text
    (verdict,) = [row(text, index) for index in (1, 2) if "verdict" in row(text, index)]
    assert f'href="/builds/{build}"' in verdict
    assert "&lt;img/src=x&gt;" in verdict
    assert "passed</span> 0" in verdict
    assert "agreeing: " in verdict
    assert "agreed" in verdict
    assert ledger[0].head.hex() in row(text, 1)
    assert ledger[0].head.hex() in row(text, 2), "the head before it"
    assert "<img" not in text


async def test_what_comes_while_a_page_is_made_is_a_change_that_it_has_not_seen(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a page with older rows would wait for the change after that."""
    await decided_build(running, client)
    await page_when(client, PATH, lambda text: rows(text) == [2, 1])
    fetch = LedgerCheck.stretch

    async def fetch_slowly(check: LedgerCheck, first: int, last: int) -> Stretch:
        found = await fetch(check, first, last)
        build = await running.gateway.submit(REPOSITORY, "master", None)
        await until(lambda: record_of(running, build).collected)
        return found

    def seen_by(text: str) -> int:
        found = re.search(r'<body data-after="(\d+)"', text)
        assert found is not None
        return int(found[1])

    monkeypatch.setattr(LedgerCheck, "stretch", fetch_slowly)
    text = await page(client, PATH)
    refused = await page(client, f"{PATH}?before=0", 400)
    assert seen_by(text) < seen_by(refused), "the second was made at once"


async def test_what_a_certificate_covers_is_marked(running: Running, client: Client) -> None:
    await decided_build(running, client)
    node = running.network.nodes["replica-0"]
    await until(lambda: len(node.ledger) == 2)
    certify(running, {"epoch": bytes(8), **node.application.parts()})
    await decided_build(running, client)
    text = await page_when(client, PATH, lambda text: "signed for it (checkpoint 128)" in text)
    assert "Up to entry 2, replica-0, replica-1, replica-2 signed" in text
    text = await page_when(client, PATH, lambda text: rows(text) == [4, 3, 2, 1])
    marks = [re.findall("certified|agreed", row(text, index)) for index in (4, 3, 2, 1)]
    assert marks == [["agreed"], ["agreed"], ["certified"], ["certified"]]


async def test_a_long_ledger_is_paged(running: Running, client: Client) -> None:
    claim(running.network, chain(running.network, 137))
    text = await page_when(client, PATH, lambda text: len(rows(text)) == 50)
    assert rows(text) == list(range(137, 87, -1))
    assert "Newer" not in text
    older = re.search(r'<a href="(/ledger\?before=\d+)">Older', text)
    assert older is not None
    text = await page(client, older[1])
    assert rows(text) == list(range(87, 37, -1))
    assert '<a href="/ledger?before=138">Newer' in text or '<a href="/ledger">Newer' in text
    text = await page(client, "/ledger?before=38")
    assert rows(text) == list(range(37, 0, -1))
    assert "Older" not in text
    assert rows(await page(client, "/ledger?before=1")) == []
    assert rows(await page(client, "/ledger?before=99999")) == list(range(137, 87, -1))
    for wrong in ("x", "-1", "0", "1" * 19, "%E2%82%AC"):
        assert "number of a ledger entry" in await page(client, f"/ledger?before={wrong}", 400)


async def test_a_liar_is_named_and_its_entries_are_not_shown(
    running: Running, client: Client
) -> None:
    network = running.network
    claim(network, chain(network, 10))
    claim(network, chain(network, 10, "false "), "replica-0")
    text = await page_when(client, PATH, lambda text: rows(text) != [])
    assert "replica-0 gives another ledger" in text
    assert "false " not in text
    assert "served by replica-1" in text
    replicas = await page_when(client, "/replicas", lambda text: "replica-0 gives" in text)
    assert "replica-0 gives another ledger than the others" in replicas
    assert "its head for entry 10 differs from the others'" in replicas


async def test_where_it_cannot_be_verified_it_says_why(running: Running, client: Client) -> None:
    network = running.network
    for name in network.nodes:
        claim(network, chain(network, 10, f"<i>{name}"), name)
    text = await page_when(client, PATH, lambda text: "not verified" in text)
    assert "2 equal answers are needed" in text
    assert rows(text) == []
    assert "<i>" not in text
    for name in ("replica-1", "replica-2", "replica-3"):
        network.nodes[name].is_down = True
    text = await page_when(client, PATH, lambda text: "too few replicas answer: 1" in text)
    assert rows(text) == []


async def test_entries_that_nobody_gives_any_more_are_said_to_be_missing(
    running: Running, client: Client
) -> None:
    network = running.network
    ledger = chain(network, 120)
    claim(network, ledger)
    await page_when(client, PATH, lambda text: len(rows(text)) == 50)
    serve(network, chain(network, 120, "false "))
    text = await page(client, "/ledger?before=51")
    assert "no replica gives entries 1 to 50" in text
    assert rows(text) == []


def test_each_kind_of_entry_is_told() -> None:
    ballot = RecordedBallot(replica="replica-1", outcome="timed_out")
    bodies: list[AnyEntry] = [
        CancelEntry("ab" * 32, 1, "operator"),
        LateBallotEntry("ab" * 32, 1, ballot, False),
        AppendEntry("gateway", "two\nlines " + "x" * 1000, 1, "00"),
    ]
    head, entries = bytes(32), []
    for index, body in enumerate(bodies, 1):
        encoded = encode_entry(body)
        head = next_head(head, index, encoded)
        entries.append(Entry(index, encoded, head))
    entries.append(Entry(4, b'{"type":"moon"}', bytes(32)))
    cancel, late, append, unknown = entry_views(entries, bytes(32))
    assert (cancel.kind, cancel.by, cancel.build) == ("cancel", "operator", "ab" * 32)
    assert (late.kind, late.by, late.text) == ("late ballot", "replica-1", "timed out: dissents")
    assert append.text.startswith("two\\nlines x")
    assert len(append.text) == 300
    assert (unknown.kind, unknown.previous) == ("unknown", append.head)
    assert "cannot read it" in unknown.text
    assert (cancel.previous, late.previous) == ("00" * 32, cancel.head)


def test_which_entries_a_page_shows() -> None:
    assert place_of(None, 0) is None
    assert place_of(1, 10) is None
    assert place_of(None, 10) == LedgerPlace(1, 10, None, None)
    assert place_of(None, 51) == LedgerPlace(2, 51, 2, None)
    assert place_of(2, 51) == LedgerPlace(1, 1, None, 52)
    assert place_of(60, 200) == LedgerPlace(10, 59, 10, 110)
