"""client.dashboard.build_forms: cancel, rebuild and approve from a build's page."""

from pathlib import Path

import pytest

from ci.statement import parse_statement
from client.gateway.resolve import Unreachable
from client.storage.build_request import BuildRequest
from tests.ci.builders import COMMIT
from tests.client.api.test_change_routes import open_build
from tests.client.dashboard.forms import csrf_of, send_form
from tests.client.gateway.test_build_changes import nobody_finishes, outcome_of
from tests.client.gateway.test_gateway import decided, record_of, until
from tests.client.running_network import (
    REPOSITORY,
    FixedResolver,
    Network,
    Running,
    gateway_on,
    run_gateway,
)
from tests.client.site import Client, client_of, decided_build


async def buttons(client: Client, build: str) -> set[str]:
    """What the build's page offers."""
    text = await (await client.get(f"/builds/{build}")).text()
    return {
        what
        for what in ("cancel", "rebuild", "approve")
        if f'action="/builds/{build}/{what}"' in text
    }


async def test_an_open_build_is_cancelled_with_a_reason(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    assert await buttons(client, build) == {"cancel"}
    csrf = await csrf_of(client, f"/builds/{build}")
    path = f"/builds/{build}/cancel"
    answer = await send_form(client, path, {"csrf": csrf, "reason": " <b>no</b> "})
    assert answer.status == 303
    assert answer.headers["Location"] == f"/builds/{build}?done=cancel"
    text = await (await client.get(answer.headers["Location"])).text()
    assert "Cancelled: this gateway no longer requests this build" in text
    record = await decided(running, bytes.fromhex(build))
    assert outcome_of(record) == "cancelled"
    assert record.withdrawn == "<b>no</b>"
    text = await (await client.get(f"/builds/{build}")).text()
    assert "Cancelled: this gateway no longer requests this build" not in text
    assert "&lt;b&gt;no&lt;/b&gt;" in text


async def test_while_the_network_is_told_nothing_more_is_offered(
    running: Running, client: Client
) -> None:
    build = await open_build(running, client)
    for node in running.network.nodes.values():
        node.is_down = True
    csrf = await csrf_of(client, f"/builds/{build}")
    answer = await send_form(client, f"/builds/{build}/cancel", {"csrf": csrf, "reason": ""})
    assert answer.status == 303
    assert record_of(running, bytes.fromhex(build)).withdrawn == "cancelled"
    assert await buttons(client, build) == set()


async def test_a_build_that_is_over_is_built_again(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    assert await buttons(client, build) == {"rebuild"}
    csrf = await csrf_of(client, f"/builds/{build}")
    answer = await send_form(client, f"/builds/{build}/rebuild", {"csrf": csrf})
    assert answer.status == 303
    (again,) = running.archive.rebuilds(bytes.fromhex(build))
    assert answer.headers["Location"] == f"/builds/{again.hex()}?done=rebuild"
    assert record_of(running, again).commit == COMMIT
    text = await (await client.get(answer.headers["Location"])).text()
    assert "Rebuild accepted" in text
    await send_form(client, f"/builds/{build}/rebuild", {"csrf": csrf, "cold": "on"})
    _, cold = running.archive.rebuilds(bytes.fromhex(build))
    assert parse_statement((await decided(running, cold)).statement or b"").verdict.is_cold
    assert not parse_statement((await decided(running, again)).statement or b"").verdict.is_cold


async def test_what_cannot_be_done_says_why(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    for what, why in (("cancel", "over already: passed"), ("approve", "no operator")):
        answer = await send_form(client, f"/builds/{build}/{what}", {"csrf": csrf})
        assert answer.status == 409
        assert why in await answer.text()
    answer = await send_form(client, f"/builds/{build}/cancel", {"csrf": csrf, "reason": "x" * 201})
    assert answer.status == 400
    answer = await send_form(client, f"/builds/{'0' * 64}/cancel", {"csrf": csrf})
    assert answer.status == 404
    assert (await client.get(f"/builds/{build}/cancel")).status == 405


async def test_more_than_one_repository_may_have_is_429(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")), queue_max=1)
    client = await client_of(running, tmp_path)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await running.gateway.cancel(build, "not wanted")
    await until(lambda: running.gateway.unfinished == 0)
    csrf = await csrf_of(client, f"/builds/{build.hex()}")
    await running.gateway.submit(REPOSITORY, "master", None)
    answer = await send_form(client, f"/builds/{build.hex()}/rebuild", {"csrf": csrf})
    assert answer.status == 429
    assert running.archive.rebuilds(build) == []
    await client.close()
    await running.close()


async def test_an_operators_gateway_offers_to_approve(tmp_path: Path) -> None:
    network = Network(gateway_roles=("gateway", "operator"))
    async with gateway_on(network, tmp_path) as running:
        client = await client_of(running, tmp_path)
        wanted = BuildRequest(REPOSITORY, "stranger", COMMIT, needs_approval=True)
        build = (await running.gateway.order(wanted)).build.hex()
        assert await buttons(client, build) == {"approve", "cancel"}
        csrf = await csrf_of(client, f"/builds/{build}")
        answer = await send_form(client, f"/builds/{build}/approve", {"csrf": csrf})
        assert answer.headers["Location"] == f"/builds/{build}?done=approve"
        assert "approve" not in await buttons(client, build)
        record = await decided(running, bytes.fromhex(build))
        assert outcome_of(record) == "passed"
        await client.close()


async def test_another_gateway_says_how_an_operator_approves(
    running: Running, client: Client
) -> None:
    nobody_finishes(running.network)
    wanted = BuildRequest(REPOSITORY, "stranger", COMMIT, needs_approval=True)
    build = (await running.gateway.order(wanted)).build.hex()
    assert await buttons(client, build) == {"cancel"}
    text = await (await client.get(f"/builds/{build}")).text()
    assert f"client approve {build} --operator-key" in text


@pytest.mark.parametrize("query", ["?done=x", "?done=<script>", "?done="])
async def test_an_address_cannot_make_a_page_say_something(
    running: Running, client: Client, query: str
) -> None:
    build = await open_build(running, client)
    text = await (await client.get(f"/builds/{build}{query}")).text()
    assert 'class="done"' not in text
    assert "<script>" not in text
