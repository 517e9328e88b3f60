"""client.dashboard.trends_page: plots of weeks, with their numbers as a table."""

import re
import time

import msgspec

from client.storage.build_measures import BuildMeasure
from tests.client.dashboard.pages import page
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, decided_build

WEEK_SECONDS = 7 * 86_400


async def test_a_finished_build_is_in_the_plots_and_in_the_table(
    running: Running, client: Client
) -> None:
    assert "No build was decided in these 13 weeks" in await page(client, "/trends")
    await decided_build(running, client)
    text = await page(client, "/trends")
    assert len(re.findall(r'<svg class="bars"', text)) == 4
    assert len(re.findall(r"<rect [^>]*><title>week of 20", text)) == 4
    assert re.search(r"<td>1</td><td>[^-]+ m?s<br>.*<td>100 %</td><td>100 %</td></tr>", text)
    assert "No build of this repository" in await page(client, "/trends?repository=other")


async def test_weeks_and_repository_are_chosen(running: Running, client: Client) -> None:
    now = time.time()
    old = BuildMeasure(1, REPOSITORY, "failed", now - 20 * WEEK_SECONDS, 1.0, 2.0, 4, 0, 0)
    new = msgspec.structs.replace(old, number=2, repository="<b>", decided_at=now)
    with running.database.transaction():
        running.archive.measures.put(old)
        running.archive.measures.put(new)
    rows = re.compile(r'<tr data-key="20')
    assert len(rows.findall(await page(client, "/trends"))) == 1
    assert len(rows.findall(await page(client, "/trends?weeks=26"))) == 2
    assert "week of" in await page(client, "/trends?repository=%3Cb%3E")
    assert "No build of this" in await page(client, f"/trends?repository={REPOSITORY}&weeks=13")
    for address in ("/trends?weeks=3", "/trends?weeks=x", f"/trends?repository={'r' * 1025}"):
        assert (await client.get(address)).status == 400
