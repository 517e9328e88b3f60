"""node.web.begin_state_routes: to whom a node gives the state that an epoch begins with."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.epoch_folder import BEGIN_NAME
from common.tls.certificates import PeerLeaf
from common.tls.member_tls import Channel
from node.web import begin_state_routes
from node.web.begin_state_routes import BeginStateRoutes


async def answers(folder: Path, epoch: int, *queries: str) -> list[tuple[int, bytes]]:
    """What a node answers whose store of that epoch is in that folder."""
    application = web.Application()
    application.add_routes(BeginStateRoutes(folder, epoch).routes())
    given = []
    async with TestClient(TestServer(application)) as client:
        for query in queries:
            async with client.get(f"/pbft/begin-state{query}") as response:
                given.append((response.status, await response.read()))
    return given


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of a node that passed over epoch 2."""
    for epoch in (1, 2, 3):
        (tmp_path / f"epoch-{epoch}").mkdir()
        if epoch != 2:
            (tmp_path / f"epoch-{epoch}" / BEGIN_NAME).write_bytes(b"state %d" % epoch)
    return tmp_path


async def test_a_node_gives_the_states_of_the_epochs_that_it_began(data: Path) -> None:
    given = await answers(data / "epoch-3", 3, "", "?epoch=1", "?epoch=2", "?epoch=4", "?epoch=x")
    assert given[:2] == [(200, b"state 3"), (200, b"state 1")]
    assert [status for status, _ in given[2:]] == [410, 404, 400]
    # its folder may be there before the node is in that epoch, and the first has no state
    given = await answers(data / "epoch-1", 1, "?epoch=3", "?epoch=0")
    assert [status for status, _ in given] == [404, 404]
    assert [status for status, _ in await answers(data, 0, "")] == [404]


async def test_a_member_of_an_earlier_epoch_gets_the_state_of_that_one_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was removed learns nothing of what was decided since."""
    leaf = PeerLeaf("replica-0", b"", 0.0)
    monkeypatch.setattr(begin_state_routes, "channel_of", lambda _: Channel(b"", leaf, 1))
    given = await answers(data / "epoch-3", 3, "?epoch=1", "?epoch=3", "")
    assert [status for status, _ in given] == [200, 403, 403]
    monkeypatch.setattr(begin_state_routes, "channel_of", lambda _: Channel(b"", leaf))
    given = await answers(data / "epoch-3", 3, "?epoch=1", "?epoch=3")
    assert [status for status, _ in given] == [200, 200]


async def test_few_are_sent_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begin_state_routes, "SENDING_MAX", 1)
    given = await answers(data / "epoch-1", 1, "?epoch=1", "?epoch=1")
    assert [status for status, _ in given] == [200, 200]
    monkeypatch.setattr(begin_state_routes, "SENDING_MAX", 0)
    assert (await answers(data / "epoch-1", 1, "?epoch=1"))[0][0] == 503
