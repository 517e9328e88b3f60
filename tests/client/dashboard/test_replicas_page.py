"""client.dashboard.replicas_page: who is up, who disagrees, what is proved; and the switch."""

import re
from pathlib import Path

import pytest

from ci.operations import Abstain, Outcome
from common.address import Address
from node.faults.misbehaviours import KINDS
from tests.ci.builders import FAILED, finding
from tests.client.api.test_change_routes import guarded, token_file
from tests.client.commands.test_commands import contradictions
from tests.client.dashboard.forms import csrf_of, send_form
from tests.client.dashboard.pages import page, page_when
from tests.client.running_network import Running, passed
from tests.client.site import Client, decided_build

PATH = "/replicas"
HOSTILE = "<img/src=x>&\"'"


def card(text: str, replica: str) -> str:
    """What the page says of one replica."""
    return text.split(f'id="replica-{replica}"')[1].split("</article>")[0]


async def test_each_replica_is_told_with_where_it_stands(client: Client) -> None:
    text = await page_when(client, PATH, lambda text: "NORMAL" in card(text, "replica-3"))
    # the fixture's gateway has a link to the first alone
    assert "replica-1, replica-2 and replica-3 answer, but without a link." in text
    assert "Builds are decided, and still would be with one down." in text
    assert 'aria-current="page">Replicas' in text
    for name in ("replica-0", "replica-1", "replica-2", "replica-3"):
        assert "NORMAL" in card(text, name)
        assert "0, primary replica-0" in card(text, name)
        assert "1.2.3" in card(text, name)
    assert "evidence --verify" in text
    assert "link is up" in card(text, "replica-0")
    assert "link is down" in card(text, "replica-1")


async def test_one_that_gives_no_answer_is_said_to_be_down(
    running: Running, client: Client
) -> None:
    await page_when(client, PATH, lambda text: "NORMAL" in card(text, "replica-2"))
    running.network.nodes["replica-2"].is_down = True
    text = await page_when(client, PATH, lambda text: "No answer" in card(text, "replica-2"))
    # with a date where midnight came between
    since = r"since (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d UTC"
    assert re.search(f"replica-2 is down {since}", text)
    assert re.search(rf'{since} \(<time datetime="', card(text, "replica-2"))
    assert "Its last answer" in card(text, "replica-2")
    answer = await (await client.get("/api/v1/network")).json()
    assert answer["sentence"] in text.replace("&#39;", "'")
    assert answer["replicas"][2]["reach"] == "down"


async def test_dissent_and_abstention_are_told_with_their_builds(
    running: Running, client: Client
) -> None:
    running.network.nodes["replica-1"].finds = lambda build: (FAILED, b"log")
    first = await decided_build(running, client, HOSTILE)
    running.network.nodes["replica-1"].finds = lambda build: (Abstain(HOSTILE), b"")
    second = await decided_build(running, client)
    other = finding(Outcome.FAILED, 1, log="1 failed")
    running.network.nodes["replica-1"].finds = lambda build: passed()
    running.network.nodes["replica-2"].finds = lambda build: (other, b"1 failed")
    await decided_build(running, client)
    text = await page_when(client, PATH, lambda text: "differed from" in card(text, "replica-2"))
    told = card(text, "replica-1")
    assert '<span class="dissents">differed from 1 verdict' in told
    assert "1 with the log of the verdict's side</strong> (suspect)" in told
    assert "found failed 1, with the log of the verdict's side" in told
    assert f'<a href="/builds/{first}">&lt;img/src=x&gt;' in told
    assert "found failed 1" in told
    assert f'<a href="/builds/{second}">master' in told
    assert "could not build: &lt;img/src=x&gt;" in told
    assert '<span class="open">differed from 1 verdict' in card(text, "replica-2")
    assert "suspect" not in card(text, "replica-2"), "a test may be flaky"
    assert "<img" not in text
    assert "replica-1 disagreed with 1 of the newest 3 verdicts" in text


async def test_proof_is_told_with_both_messages(running: Running, client: Client) -> None:
    running.network.nodes["replica-0"].evidence = contradictions(running, "replica-3", 7)
    text = await page_when(client, PATH, lambda text: "7 proofs" in card(text, "replica-3"))
    assert "replica-3 signed two different Checkpoint messages" in card(text, "replica-3")
    assert "Checkpoint, sequence 1: digest 0000000000000000" in card(text, "replica-3")
    assert "Checkpoint, sequence 1: digest 7878787878787878" in card(text, "replica-3")
    assert "kept by replica-0" in card(text, "replica-3")
    assert "4 more of 6" in card(text, "replica-3")
    assert "proofs" not in card(text, "replica-0")


async def test_a_nodes_words_never_become_markup(running: Running, client: Client) -> None:
    running.network.nodes["replica-1"].told = {"status": "<script>alert(1)</script>"}
    running.network.nodes["replica-2"].is_fault_allowed = True
    running.network.nodes["replica-2"].told = {"fault_kinds": {"lying": HOSTILE + "\u202e"}}
    text = await page_when(client, PATH, lambda text: "lying" in text)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;img/src=x&gt;&amp;&#34;&#39;\\u202e" in text
    assert "an answer that cannot be read" in card(text, "replica-1")


async def test_with_fault_injection_off_there_is_no_switch(
    running: Running, client: Client
) -> None:
    build = await decided_build(running, client)
    text = await page_when(client, PATH, lambda text: "NORMAL" in card(text, "replica-3"))
    assert "<form" not in text
    for word in ("Make a replica misbehave", "Fault injection", "/replicas/misbehave", *KINDS):
        assert word not in text
    answer = await client.get("/replicas")
    assert "form-action 'none'" in answer.headers["Content-Security-Policy"]
    # a form of another page brings a right csrf field: it changes nothing
    csrf = await csrf_of(client, f"/builds/{build}")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "lying"}
    answer = await send_form(client, "/replicas/misbehave", fields)
    assert answer.status == 404
    assert all(node.fault is None for node in running.network.nodes.values())


async def test_a_node_is_made_to_misbehave_and_to_stop(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    node = running.network.nodes["replica-3"]
    node.is_fault_allowed = True
    text = await page_when(client, PATH, lambda text: 'action="/replicas/misbehave"' in text)
    assert re.findall(r"<option>([^<]*)</option>", text) == ["replica-3", *KINDS]
    assert f'action="/builds/{build}/rebuild"' in text
    csrf = await csrf_of(client, "/replicas")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "lying"}
    answer = await send_form(client, "/replicas/misbehave", fields)
    assert (answer.status, node.fault) == (303, "lying")
    assert "The node has accepted the change" in await page(client, answer.headers["Location"])
    text = await page_when(client, PATH, lambda text: "on purpose" in text)
    assert "misbehaves on purpose: lying" in card(text, "replica-3")
    assert "replica-3 misbehaves on purpose (lying)" in text
    answer = await send_form(client, "/replicas/misbehave", {**fields, "fault": ""})
    assert (answer.status, node.fault) == (303, None)
    await page_when(client, PATH, lambda text: "on purpose" not in text)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"csrf": "0" * 64}, 403),
        ({"replica": "replica-1"}, 400),
        ({"replica": HOSTILE}, 400),
        ({"fault": "allowed"}, 400),
        ({"fault": HOSTILE}, 400),
    ],
)
async def test_what_is_not_offered_is_refused(
    running: Running, client: Client, changed: dict[str, str], status: int
) -> None:
    running.network.nodes["replica-3"].is_fault_allowed = True
    await page_when(client, PATH, lambda text: 'action="/replicas/misbehave"' in text)
    csrf = await csrf_of(client, "/replicas")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "lying", **changed}
    answer = await send_form(client, "/replicas/misbehave", fields)
    assert answer.status == status
    assert "<img" not in await answer.text()
    assert all(node.fault is None for node in running.network.nodes.values())


async def test_another_sites_page_cannot_use_the_switch(running: Running, client: Client) -> None:
    node = running.network.nodes["replica-3"]
    node.is_fault_allowed = True
    await page_when(client, PATH, lambda text: 'action="/replicas/misbehave"' in text)
    csrf = await csrf_of(client, "/replicas")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "lying"}
    for origin in (None, "https://evil.example"):
        answer = await send_form(client, "/replicas/misbehave", fields, origin=origin)
        assert (answer.status, node.fault) == (403, None)


async def test_a_node_that_says_no_after_all(running: Running, client: Client) -> None:
    node = running.network.nodes["replica-3"]
    # it offers, and does not do it
    node.told = {"fault_kinds": {"lying": "it lies"}}
    await page_when(client, PATH, lambda text: 'action="/replicas/misbehave"' in text)
    csrf = await csrf_of(client, "/replicas")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "lying"}
    answer = await send_form(client, "/replicas/misbehave", fields)
    assert answer.status == 502
    assert "fault injection is off here" in await answer.text()


async def test_where_the_api_takes_tokens_the_switch_takes_one(
    running: Running, tmp_path: Path
) -> None:
    node = running.network.nodes["replica-3"]
    node.is_fault_allowed = True
    client = await guarded(running, tmp_path, api_token_file=token_file(tmp_path))
    await page_when(client, PATH, lambda text: 'type="password" name="token"' in text)
    csrf = await csrf_of(client, "/replicas")
    fields = {"csrf": csrf, "replica": "replica-3", "fault": "silent"}
    answer = await send_form(client, "/replicas/misbehave", fields)
    assert (answer.status, node.fault) == (401, None)
    answer = await send_form(client, "/replicas/misbehave", {**fields, "token": "new-token"})
    assert (answer.status, node.fault) == (303, "silent")
    await client.close()


async def test_where_nobody_may_change_anything_there_is_a_hint_and_no_form(
    running: Running, tmp_path: Path
) -> None:
    running.network.nodes["replica-3"].is_fault_allowed = True
    elsewhere = await guarded(running, tmp_path, listen=Address("192.0.2.1", 8080))
    text = await page_when(elsewhere, PATH, lambda text: "api_token_file" in text)
    assert "<form" not in text
    await elsewhere.close()


async def test_what_changes_at_the_nodes_is_told_to_who_follows(
    running: Running, client: Client
) -> None:
    def count(text: str) -> int:
        found = re.search(r'<body data-after="(\d+)"', text)
        assert found is not None
        return int(found[1])

    seen: list[int] = []

    def is_quiet(text: str) -> bool:
        seen.append(count(text))
        return "NORMAL" in card(text, "replica-3") and seen[-2:] == [seen[-1]] * 2

    before = await page_when(client, PATH, is_quiet)
    running.network.nodes["replica-3"].told = {"view": 7}
    after = await page_when(client, PATH, lambda text: "7, primary" in card(text, "replica-3"))
    assert count(after) > count(before)
