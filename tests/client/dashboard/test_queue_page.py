"""client.dashboard.queue_page: what waits, for what, since when."""

import re

from client.dashboard.queue_page import ROWS_MAX
from client.storage.build_request import BuildRequest
from client.storage.outbox import Outbox
from tests.ci.builders import COMMIT
from tests.client.dashboard.pages import page, page_when
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, decided_build, post

HOSTILE = "<b>&"


def part(text: str, name: str) -> str:
    """What the page says of one sort."""
    return text.split(f'id="waits-{name}"')[1].split("</section>")[0]


async def test_nothing_waits(running: Running, client: Client) -> None:
    await decided_build(running, client)
    text = await page(client, "/queue")
    assert "Nothing waits" in text
    assert 'aria-current="page">Queue' in text


async def test_a_build_names_the_ballots_that_it_waits_for(
    running: Running, client: Client
) -> None:
    nodes = running.network.nodes
    for name in ("replica-2", "replica-3"):
        nodes[name].finds = lambda build: None
    _, accepted = await post(client, {"branch": HOSTILE})
    text = await page_when(
        client, "/queue", lambda text: "waits-opened" in text and "replica-0" not in text
    )
    told = part(text, "opened")
    assert "replica-2" in told
    assert "replica-3" in told
    assert "replica-1" not in told
    assert str(accepted["build"]) in told
    assert "&lt;b&gt;&amp;" in told
    assert re.search(r'data-since="20[^"]+">\d+ s<', told)


async def test_each_sort_is_told_apart_and_only_the_oldest_are_shown(
    running: Running, client: Client
) -> None:
    for node in running.network.nodes.values():
        node.is_down = True
    outbox = Outbox(running.database)
    with running.database.transaction():
        for number in range(ROWS_MAX + 2):
            wanted = BuildRequest(REPOSITORY, "stranger", COMMIT, needs_approval=True)
            build = bytes([1, number]) * 16
            running.archive.add(build, wanted, 1.0 + number)
            outbox.add_build(build, build, wanted)
        wanted = BuildRequest(REPOSITORY, "unresolved")
        running.archive.add(b"u" * 32, wanted, 1.0)
        running.archive.note_detail(b"u" * 32, "git does not answer")
        outbox.add_build(b"u" * 32, b"u" * 32, wanted)
    text = await page(client, "/queue")
    assert text.index("waits-received") < text.index("waits-approval")
    assert "git does not answer" in part(text, "received")
    held = part(text, "approval")
    assert f"The oldest {ROWS_MAX} are shown" in held
    assert len(re.findall("<tr data-key", held)) == ROWS_MAX
    assert "an operator&#39;s approval" in held or "an operator's approval" in held
    assert f"{ROWS_MAX + 3} builds have no verdict yet" in text
