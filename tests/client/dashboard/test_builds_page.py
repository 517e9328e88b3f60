"""client.dashboard.builds_page: the list, what it is filtered by, and a build at a glance."""

import re

import pytest

from ci.operations import Abstain, Event
from client.api.routes import PAGE_BUILDS_MAX
from client.dashboard.builds_page import BRANCHES_MAX, BuildRow, build_row
from client.dashboard.pages import STATIC
from client.storage.build_filter import OUTCOMES
from client.storage.build_request import BuildRequest
from client.views import formats
from client.views.build_view import BuildView, build_view
from tests.ci.builders import FAILED, PASSED
from tests.client.dashboard.pages import page
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, decided_build
from tests.client.views.test_build_view import decided, record

FIRST_PAGE_BYTES_MAX = 100_000


def fill(running: Running, builds: int, branch: str = "branch") -> list[str]:
    """So many decided builds, four ballots each; their ids, the newest first."""
    _, _, statement, ballots = decided([PASSED, FAILED, PASSED, PASSED])
    names = []
    with running.database.transaction():
        for index in range(builds):
            build = index.to_bytes(32, "big")
            wanted = BuildRequest(REPOSITORY, f"{branch} {index}", "c" * 40)
            running.archive.add(build, wanted, 1.0 + index)
            running.archive.note_opened(build, 2.0 + index)
            running.archive.note_decided(build, statement, 65.0 + index)
            for ballot in ballots:
                running.archive.put_ballot(build, ballot.replica, ballot.signed)
            running.archive.note_collected(build)
            names.append(build.hex())
    return names[::-1]


def listed(text: str) -> list[str]:
    return re.findall(r'<tr data-key="([0-9a-f]{64})">', text)


async def test_an_empty_table_says_how_to_begin(client: Client) -> None:
    text = await page(client, "/")
    assert "curl -d" in text
    assert "http://localhost:8080/webHook" in text
    assert "No build matches" not in text


async def test_the_table_links_to_builds(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    text = await page(client, "/")
    assert f'<a class="name" href="/builds/{build}">master' in text
    assert re.search(r'<span class="outcome good passed">.*</span> passed</span>', text)
    assert f'<code title="{"c" * 40}">{"c" * 10}</code>' in text
    assert re.search(r'<time datetime="2\d{3}-.*Z" title="2.* UTC" data-ago>just now</time>', text)
    assert "4 of 4 agree" in text


async def test_the_list_is_filtered_by_what_the_form_sends(
    running: Running, client: Client
) -> None:
    green = await decided_build(running, client, "green")
    for node in running.network.nodes.values():
        node.finds = lambda build: (FAILED, b"log")
    red = await decided_build(running, client, "red&co")
    form = {"repository": REPOSITORY, "branch": "", "outcome": "failed"}
    answer = await client.get("/", params=form)
    assert "form-action 'self'" in answer.headers["Content-Security-Policy"]
    text = await answer.text()
    assert listed(text) == [red]
    assert '<option value="failed" selected>' in text
    assert f'name="repository" value="{REPOSITORY}"' in text
    assert '<a class="button" href="/">Clear</a>' in text
    assert listed(await page(client, "/?branch=+red%26co+")) == [red]
    assert listed(await page(client, "/?branch=REE")) == [green]
    assert listed(await page(client, f"/?commit={'C' * 12}&event=push")) == [red, green]
    assert listed(await page(client, "/?commit=dddd")) == []
    odd = await page(client, "/?sha=1&branch=green&%3Cb%3E=1")
    assert "<code>&lt;b&gt;</code>, <code>sha</code>. It can be filtered by repository" in odd
    assert listed(odd) == [green]
    nothing = await page(client, "/?branch=green&outcome=failed")
    assert listed(nothing) == []
    assert "No build matches." in nothing
    assert "curl -d" not in nothing


async def test_each_outcome_can_be_chosen_and_is_shown_in_words(client: Client) -> None:
    for name in OUTCOMES:
        text = await page(client, f"/?outcome={name}")
        words = name.replace("_", " ")
        assert f'<option value="{name}" selected>{words}</option>' in text


async def test_the_address_above_a_builds_is_the_list(client: Client) -> None:
    answer = await client.get("/builds?outcome=failed&branch=a%26b", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/?outcome=failed&branch=a%26b")


@pytest.mark.parametrize("query", ["outcome=green", "branch=" + 256 * "b", "limit=0", "commit=zz"])
async def test_a_wrong_filter_is_refused_in_words(client: Client, query: str) -> None:
    assert "`" in await page(client, f"/?{query}", status=400)


async def test_what_was_filtered_by_is_escaped(running: Running, client: Client) -> None:
    await decided_build(running, client, '<b>"x')
    for name in ("repository", "branch", "author"):
        text = await page(client, f"/?{name}=%22%3E%3Cimg+src%3Dx%3E%26")
        assert "<img" not in text
        assert "&#34;&gt;&lt;img src=x&gt;&amp;" in text
        assert "<b>" not in text


async def test_older_builds_keep_the_filter(running: Running, client: Client) -> None:
    builds = fill(running, 5)
    path: str | None = f"/?repository={REPOSITORY}&outcome=passed&limit=2"
    seen: list[list[str]] = []
    while path:
        text = await page(client, path)
        seen.append(listed(text))
        older = re.search(r'<a rel="next" href="([^"]*)">', text)
        path = older[1].replace("&amp;", "&") if older else None
    assert seen == [builds[:2], builds[2:4], builds[4:]]
    assert 'href="/?repository=https%3A%2F%2Fexample.org%2Fr.git&amp;outcome=passed&amp;' in text
    assert ">Newest builds</a>" in text
    assert "http-equiv" not in text, "what is old does not load itself anew"
    assert "http-equiv" in await page(client, "/")


async def test_the_first_page_is_small(running: Running, client: Client) -> None:
    """With a full page of long names, and everything that it loads."""
    fill(running, PAGE_BUILDS_MAX, "x" * 200)
    text = await page(client, "/")
    files = set(re.findall(r'(?:src|href)="(/static/[^"]*)"', text))
    assert {"/static/style.css", "/static/live.js", "/static/times.js"} <= files
    sizes = [len(await (await client.get(file)).read()) for file in files]
    assert len(text.encode()) + sum(sizes) < FIRST_PAGE_BYTES_MAX
    assert text.count("<option>") <= BRANCHES_MAX + 2
    assert sum((STATIC / file.removeprefix("/static/")).stat().st_size for file in files) == sum(
        sizes
    )


async def test_what_is_under_way_is_counted(running: Running, client: Client) -> None:
    with running.database.transaction():
        for index, opened_at in enumerate([None, 1.0, 2.0]):
            build = bytes([index]) * 32
            running.archive.add(build, BuildRequest(REPOSITORY, "b"), 1.0)
            if opened_at is not None:
                running.archive.note_opened(build, opened_at)
    text = await page(client, "/")
    assert '<a href="/?outcome=building">2 building</a>' in text
    assert '<a href="/?outcome=queued">1 queued</a>' in text
    assert len(listed(await page(client, "/?outcome=building"))) == 2
    assert 'data-since="1970-01-01T00:00:01.000Z"' in text


def row(build: BuildView) -> BuildRow:
    return build_row(build, tuple(f"replica-{index}" for index in range(4)))


def test_agreement_at_a_glance() -> None:
    _, build, statement, ballots = decided([PASSED, FAILED, PASSED, PASSED])
    found = row(build_view(record(build=build, statement=statement), ballots, []))
    assert [mark.stance for mark in found.marks] == ["agrees", "dissents", "agrees", "agrees"]
    assert (found.agreement, found.apart) == ("3 of 4 agree", ("replica-1 dissents",))
    assert found.state == "passed"


def test_who_abstains_and_who_is_missing() -> None:
    _, build, statement, ballots = decided([PASSED, PASSED, PASSED, Abstain("no Docker")])
    full = row(build_view(record(build=build, statement=statement), ballots, []))
    assert full.marks[3].stance == "abstains"
    assert full.apart == ("replica-3 abstains",)
    some = row(build_view(record(build=build, statement=statement), ballots[:3], []))
    assert some.marks[3].stance == "none"
    assert some.agreement == "3 of 4 agree"


def test_an_open_build_shows_the_ballots_so_far() -> None:
    _, build, _, ballots = decided([PASSED, FAILED, PASSED, PASSED])
    found = row(build_view(record(build=build, opened_at=5.0), ballots[:2], []))
    assert [mark.stance for mark in found.marks] == ["found", "found", "none", "none"]
    assert found.marks[1].text == "replica-1 found failed"
    assert (found.state, found.agreement) == ("building", "2 of 4 so far")
    assert (found.began, found.took) == ("1970-01-01T00:00:05.000Z", None)
    waiting = row(build_view(record(build=build), [], []))
    assert (waiting.state, waiting.agreement, waiting.began) == ("queued", None, None)


def test_what_asked_for_it() -> None:
    _, build, _, _ = decided([PASSED] * 4)
    push = row(build_view(record(build=build), [], []))
    assert push.event is None
    asked = record(build=build, event=Event.PULL_REQUEST, ref="refs/pull/7/head")
    assert row(build_view(asked, [], [])).event == "pull request refs/pull/7/head"


@pytest.mark.parametrize(
    ("url", "short"),
    [
        ("https://example.org/team/app.git", "example.org/team/app"),
        ("ssh://git@example.org:2222/app", "example.org:2222/app"),
        ("git@example.org:team/app.git", "git@example.org:team/app"),
        ("/srv/git/app.git", "/srv/git/app"),
    ],
)
def test_a_repository_as_people_say_it(url: str, short: str) -> None:
    assert formats.short_repository(url) == short
