"""node.web.link_routes: which links a node gives to whoever asks."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.epoch_folder import LINK_NAME
from node.web import link_routes
from node.web.link_routes import LinkRoutes


async def answers(folder: Path, epoch: int, *queries: str) -> list[tuple[int, bytes]]:
    """What a node answers whose store of that epoch is in that folder."""
    application = web.Application()
    application.add_routes(LinkRoutes(folder, epoch).routes())
    given = []
    async with TestClient(TestServer(application)) as client:
        for query in queries:
            async with client.get(f"/pbft/links{query}") as response:
                given.append((response.status, await response.read()))
    return given


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with links to epochs 1 and 3; a release before wrote epoch 2."""
    for epoch in (1, 2, 3):
        (tmp_path / f"epoch-{epoch}").mkdir()
        if epoch != 2:
            (tmp_path / f"epoch-{epoch}" / LINK_NAME).write_bytes(b"to %d" % epoch)
    return tmp_path


async def test_a_node_gives_the_links_up_to_its_epoch(data: Path) -> None:
    queries = ("?after=0", "", "?after=1", "?after=2", "?after=3")
    given = await answers(data / "epoch-3", 3, *queries)
    assert given[:2] == [(200, b"to 1")] * 2
    assert [status for status, _ in given[2:]] == [410, 200, 404]
    assert given[3][1] == b"to 3"
    # its folder may be there before the node is in that epoch
    given = await answers(data / "epoch-2", 2, "?after=0", "?after=2")
    assert [status for status, _ in given] == [200, 404]
    assert [status for status, _ in await answers(data, 0, "?after=0")] == [404]


async def test_what_is_asked_wrongly_or_too_much_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = await answers(data / "epoch-1", 1, "?after=x", "?after=-1", "?after=99999999999999")
    assert [status for status, _ in given] == [400] * 3
    with monkeypatch.context() as patched:
        patched.setattr(link_routes, "LINK_BYTES_MAX", 3)
        assert (await answers(data / "epoch-1", 1, "?after=0"))[0][0] == 410
    monkeypatch.setattr(link_routes, "SENDING_MAX", 1)
    given = await answers(data / "epoch-1", 1, "?after=0", "?after=0")
    assert [status for status, _ in given] == [200] * 2
    monkeypatch.setattr(link_routes, "SENDING_MAX", 0)
    assert (await answers(data / "epoch-1", 1, "?after=0"))[0][0] == 503


async def test_members_of_earlier_epochs_are_given_links_and_nothing_else(data: Path) -> None:
    application = LinkRoutes(data / "epoch-1", 1).for_earlier()
    async with TestClient(TestServer(application)) as client:
        async with client.get("/pbft/links?after=0") as response:
            assert (response.status, await response.read()) == (200, b"to 1")
        for method, path in (
            ("GET", "/pbft/status"),
            ("GET", "/link"),
            ("GET", "/ledger"),
            ("POST", "/pbft/message"),
            ("POST", "/pbft/links"),
        ):
            async with client.request(method, path) as response:
                assert response.status in (405, 410), path
