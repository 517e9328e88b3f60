"""client.dashboard.compare_page: two replicas' logs beside each other, and what is not compared."""

from pathlib import Path

import pytest

from ci.limits import Limits
from ci.operations import Abstain
from client.dashboard import compare_page
from client.dashboard.compare_page import pairs_to_compare
from client.views.agreement import Group
from common.log_pieces import kept_sizes, marker
from tests.ci.builders import FAILED
from tests.client.dashboard.pages import page
from tests.client.dashboard.test_build_page import finds, with_log, words_of
from tests.client.running_network import Network, Running, gateway_on
from tests.client.site import Client, client_of, decided_build

LOG_BYTES_MAX = 4096


async def built(running: Running, client: Client, *logs: bytes) -> str:
    """A build with these logs, which the replicas found red; those without one abstain."""
    nodes = list(running.network.nodes.values())
    for node in nodes:
        node.finds = lambda build: (Abstain("no disk"), b"")
    for node, log in zip(nodes, logs, strict=False):
        node.finds = finds(with_log(FAILED, log), log)
    return await decided_build(running, client)


async def compare(client: Client, build: str, query: str, status: int = 200) -> str:
    return await page(client, f"/builds/{build}/compare?{query}", status)


async def test_two_logs_side_by_side(running: Running, client: Client) -> None:
    build = await built(running, client, b"1\n2\nin 3 s\n4\n", b"1\n2\nin 5 s\nfour\n")
    text = await compare(client, build, "left=replica-0&right=replica-1")
    words = words_of(text)
    assert "The first difference is at line 3 of replica-0 and line 3 of replica-1" in words
    assert "2 of the 4 lines below differ." in words
    assert text.count('id="first-difference"') == 1
    assert "3 in <mark>3</mark> s" in text.replace('</td>\n<td class="line"', "").replace(
        ' data-side="replica-0">', " "
    )
    text = await compare(client, build, "left=replica-1&right=replica-0&numbers=ignored")
    assert "line 4 of replica-1 and line 4 of replica-0" in words_of(text)
    assert "The comparison ignores numbers" in text
    answer = await client.get(f"/builds/{build}/compare?left=replica-0&right=replica-1")
    assert "form-action 'self'" in answer.headers["Content-Security-Policy"]


async def test_logs_that_are_the_same(running: Running, client: Client) -> None:
    build = await built(running, client, b"took 1 s\n", b"took 1 s\n", b"took 2 s\n")
    text = await compare(client, build, "left=replica-0&right=replica-1")
    assert "Both logs are the same, byte for byte." in text
    text = await compare(client, build, "left=replica-0&right=replica-2&numbers=ignored")
    assert "Both logs are the same apart from numbers." in text
    assert "byte for byte" not in text


async def test_what_was_not_kept_is_said(tmp_path: Path) -> None:
    network = Network(limits=Limits(log_bytes_max=LOG_BYTES_MAX))
    async with gateway_on(network, tmp_path) as running:
        client = await client_of(running, tmp_path)
        head, tail = kept_sizes(LOG_BYTES_MAX)
        begin, end = b"a\n" * (head // 2), b"z" * (tail - 6) + b"\n1 ok\n"
        long = begin + marker(1000) + end
        longer = begin + marker(1003) + end.replace(b"1 ok", b"2 ok")
        build = await built(running, client, long, long, longer, begin + b"b\n")
        text = words_of(await compare(client, build, "left=replica-0&right=replica-1"))
        assert "As far as they were kept and compared, both logs are the same." in text
        assert "1000 bytes between them are gone and were not compared." in text
        assert "byte for byte" not in text
        text = words_of(await compare(client, build, "left=replica-0&right=replica-2"))
        assert "the table shows the ends of both" in text
        assert "replica-2 kept the beginning and the end of its log; 1003 bytes" in text
        assert "line -1 of replica-0 and line -1 of replica-2, counted from the end" in text
        await client.close()


async def test_of_a_very_long_log_the_middle_is_not_compared_and_that_is_said(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_page, "READ_BYTES_MAX", 100)
    log = b"a\n" * 100
    build = await built(running, client, log, log[:100] + b"b\n" + log[102:], log + b"c\n")
    text = words_of(await compare(client, build, "left=replica-0&right=replica-1"))
    assert "As far as they were kept and compared, both logs are the same." in text
    assert "replica-0&#39;s log is long: 100 bytes in its middle were not compared" in text
    text = words_of(await compare(client, build, "left=replica-0&right=replica-2"))
    assert "the table shows the ends of both" in text


@pytest.mark.parametrize(
    "query", ["", "left=replica-0", "left=replica-0&right=<b>", "left=&right="]
)
async def test_without_two_replicas_there_is_nothing_to_compare(
    running: Running, client: Client, query: str
) -> None:
    build = await built(running, client, b"1", b"2")
    text = await compare(client, build, query, 400)
    assert "is the name of a replica; there are replica-0" in text


async def test_a_log_that_is_not_here(running: Running, client: Client) -> None:
    build = await built(running, client, b"1", b"2")
    text = await compare(client, build, "left=replica-0&right=replica-3", 404)
    assert "no log of replica-3 is archived" in text
    running.archive.remove_logs([bytes.fromhex(build)])
    text = await compare(client, build, "left=replica-0&right=replica-1", 404)
    assert "no longer kept" in text
    assert "no such build" in await page(
        client, f"/builds/{'0' * 64}/compare?left=replica-0&right=replica-1", 404
    )


async def test_the_last_comparisons_are_kept(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is made anew reads the logs, and they are gone."""
    monkeypatch.setattr(compare_page, "COMPARISONS_KEPT", 1)
    build = await built(running, client, b"1", b"2", b"3")
    earlier, last = "left=replica-0&right=replica-1", "left=replica-0&right=replica-2"
    for query in (earlier, last):
        await compare(client, build, query)
    running.archive.remove_logs([bytes.fromhex(build)])
    assert "line 1 of replica-2" in words_of(await compare(client, build, last))
    assert "no longer kept" in await compare(client, build, earlier, 404)


def group(stance: str, says: str, *replicas: str) -> Group:
    return Group(stance, replicas, says, "")


@pytest.mark.parametrize(
    ("groups", "archived", "expected"),
    [
        ([group("agrees", "passed", "a", "b")], "ab", []),
        ([group("agrees", "passed", "a"), group("abstains", "could not build", "b")], "ab", []),
        ([group("agrees", "passed", "a", "b"), group("dissents", "failed", "c")], "bc",
         [("b", "c")]),
        ([group("agrees", "passed", "a", "b"), group("dissents", "failed", "c")], "ab", []),
        ([group("agrees", "passed", "a"), group("agrees", "passed", "b"),
          group("dissents", "failed", "c"), group("dissents", "timed out", "d")], "bcd",
         [("b", "c"), ("b", "d")]),
        ([group("agrees", "passed", "a"), group("agrees", "passed", "b"),
          group("dissents", "failed", "c")], "abc", [("a", "c")]),
        ([group("found", "x", "a"), group("found", "y", "b"), group("found", "z", "c")], "bc",
         [("b", "c")]),
        ([group("found", "x", "a"), group("found", "y", "b"), group("found", "z", "c")], "abc",
         [("a", "b"), ("a", "c")]),
    ],
)  # fmt: skip
def test_the_verdicts_side_is_compared_with_each_that_differs(
    groups: list[Group], archived: str, expected: list[tuple[str, str]]
) -> None:
    assert pairs_to_compare(groups, archived) == expected
