"""client.dashboard.branches_page: the newest decided build of each branch."""

import re

from ci.operations import Event
from client.dashboard.branches_page import BRANCHES_MAX
from client.storage.build_request import BuildRequest
from tests.ci.builders import FAILED
from tests.client.dashboard.pages import page
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, decided_build
from tests.client.tested_builds import CASE, collected, reports


def listed(text: str) -> list[str]:
    return re.findall(r'<tr data-key="([0-9a-f]{64})"', text)


async def test_each_branch_has_its_newest_decided_build(running: Running, client: Client) -> None:
    assert "No build of a branch has a verdict yet" in await page(client, "/branches")
    await decided_build(running, client, "master")
    other = await decided_build(running, client, "other&more")
    for node in running.network.nodes.values():
        node.finds = lambda build: (FAILED, b"log")
    red = await decided_build(running, client, "master")
    tag = BuildRequest(REPOSITORY, "r", "d" * 40, event=Event.TAG)
    with running.database.transaction():
        running.archive.add(b"o" * 32, BuildRequest(REPOSITORY, "master", "c" * 40), 9e9)
        running.archive.add(b"r" * 32, tag, 9e9)
    text = await page(client, "/branches")
    assert listed(text) == [red, other]
    assert "branch=other%26more" in text


async def test_it_shows_so_many_branches_at_most(running: Running, client: Client) -> None:
    with running.database.transaction():
        for number in range(BRANCHES_MAX + 1):
            wanted = BuildRequest(REPOSITORY, f"branch-{number}", "c" * 40)
            running.archive.add(number.to_bytes(32, "big"), wanted, 1.0 + number)
    found = running.archive.built_branches(BRANCHES_MAX)
    assert found[0] == (REPOSITORY, f"branch-{BRANCHES_MAX}")
    assert (REPOSITORY, "branch-0") not in found
    assert len(found) == BRANCHES_MAX


async def test_the_list_names_an_agreed_failed_test(running: Running, client: Client) -> None:
    failed = {CASE: "failed", "z<b>::c": "failed"}
    names = tuple(running.network.nodes)
    reports(running, otherwise=dict.fromkeys(names, failed), code=1)
    await collected(running, client)
    told = "tests.test_net::test_reconnect, and 1 more"
    assert told in await page(client, "/")
    assert told in await page(client, "/branches")


async def test_a_commits_address_leads_to_its_builds(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    for commit, found in (("c" * 40, [build]), ("cccc", [build]), ("dddd", [])):
        assert listed(await page(client, f"/commits/{commit}")) == found
    answer = await client.get("/commits/no%20commit%22")
    assert answer.status == 400
