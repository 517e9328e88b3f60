"""client.dashboard.kept_traces: a picture outlives the nodes' memory; old ones go."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from client.dashboard import kept_traces
from client.dashboard.kept_traces import FOLDER, SUFFIX, KeptTraces
from client.network.nodes import NodeFailed, ServedMessage, ServedTrace
from tests.client.gateway.test_gateway import until
from tests.client.running_network import Running
from tests.client.site import Client, decided_build, site_of

NAMES = tuple(f"replica-{index}" for index in range(4))


def trace(messages: int) -> ServedTrace:
    said = tuple(
        ServedMessage(float(index), "sent", "all", "Prepare", "key", "", None)
        for index in range(messages)
    )
    return ServedTrace(said, (), None)


class Memory:
    """What the nodes say, in place of their own memory of a moment."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, ServedTrace] = {}
        monkeypatch.setattr(running.nodes, "messages", self._messages)

    async def _messages(self, replica: str, build: bytes) -> ServedTrace:
        if replica not in self.known:
            raise NodeFailed(f"{replica}: is down")
        return self.known[replica]


async def test_a_diagram_is_there_when_no_node_remembers_it(
    running: Running, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_traces, "SETTLED_SECONDS", 0.0)
    memory = Memory(running, monkeypatch)
    memory.known = {name: trace(3) for name in NAMES}
    build = await decided_build(running, client)
    file = tmp_path / "data" / FOLDER / f"{build}{SUFFIX}"
    await until(file.exists)
    memory.known = {"replica-0": trace(0)}
    text = await page_of(client, build)
    assert "<svg" in text
    file.unlink()
    assert "<svg" not in await page_of(client, build)


async def page_of(client: Client, build: str) -> str:
    answer = await client.get(f"/builds/{build}/messages")
    return await answer.text()


async def test_what_a_node_said_is_replaced_by_as_much_and_never_by_less(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(running, monkeypatch)
    kept = KeptTraces(site_of(running, tmp_path))
    build = bytes(32)
    (tmp_path / "data").mkdir(exist_ok=True)
    memory.known = {}
    await kept.keep(build)
    assert await kept.traces(build) == {}
    memory.known = {"replica-0": trace(3), "replica-1": trace(1)}
    await kept.keep(build)
    memory.known = {"replica-0": trace(2), "replica-1": trace(4), "replica-2": trace(1)}
    await kept.keep(build)
    found = await kept.traces(build)
    assert {name: len(said.messages) for name, said in found.items()} == {
        "replica-0": 3,
        "replica-1": 4,
        "replica-2": 1,
    }
    (tmp_path / "data" / FOLDER / f"{build.hex()}{SUFFIX}").write_bytes(b"no gzip")
    assert await kept.traces(build) == {}


async def test_the_newest_are_kept_and_none_where_the_setting_says_so(
    running: Running, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(running, monkeypatch)
    memory.known = {name: trace(2) for name in NAMES}
    site = site_of(running, tmp_path)
    site.config = msgspec.structs.replace(site.config, diagrams_max=2)
    kept = KeptTraces(site)
    (tmp_path / "data").mkdir(exist_ok=True)
    for number in range(4):
        await kept.keep(bytes([number]) * 32)
        await asyncio.sleep(0.01)
    names = sorted(file.name[:2] for file in (tmp_path / "data" / FOLDER).iterdir())
    assert names == ["02", "03"]
