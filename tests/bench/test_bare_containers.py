"""The bare containers that builds are compared with: they run the commit's commands behind the
same isolation as the product's, and nothing of them stays."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from bench.bare_containers import LABEL, BareContainers
from bench.engine import ReadyEngine, ready_engine
from bench.network import BenchFailed
from scripts.harness import Network, pipeline

pytestmark = pytest.mark.docker


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[ReadyEngine]:
    """The engine that runs, and the image."""
    if os.environ.get("PBFT_CI_WITHOUT_DOCKER") == "1":
        pytest.skip("asked for: --without-docker")
    async with ready_engine() as found:
        yield found


@pytest.fixture
def client(engine: ReadyEngine) -> Iterator[docker.APIClient]:
    """To look at the engine with."""
    made = docker.APIClient(base_url=engine.host, timeout=60)
    yield made
    made.close()


def _network_in(folder: Path, engine: ReadyEngine) -> Network:
    branches = {
        "good": pipeline("test -f .pbft-ci.yml", "touch made", image=engine.image),
        "bad": pipeline("echo so it is >&2; exit 3", image=engine.image),
        "slow": pipeline("sleep 600", image=engine.image),
    }
    return Network(folder, branches, executor="docker")


def _containers(client: docker.APIClient, label: str) -> list[Any]:
    found: list[Any] = client.containers(all=True, filters={"label": f"{LABEL}={label}"})
    return found


def _running(client: docker.APIClient, label: str) -> list[Any]:
    return [found for found in _containers(client, label) if found["State"] == "running"]


async def test_all_lanes_build_and_nothing_stays(
    tmp_path: Path, engine: ReadyEngine, client: docker.APIClient
) -> None:
    label = secrets.token_hex(4)
    network = _network_in(tmp_path, engine)
    bare = BareContainers(tmp_path / "bare", network, engine, label=label)
    try:
        await bare.build_in(4, "good", network.commits["good"])
        await bare.settle()
        with pytest.raises(BenchFailed, match=r"ended with 3.*so it is"):
            await bare.build(0, "bad", network.commits["bad"])
        assert _containers(client, label) == []
    finally:
        await asyncio.to_thread(bare.close)
    assert not list((tmp_path / "bare").glob("lane*"))


async def test_its_isolation_is_those_of_a_step(
    tmp_path: Path, engine: ReadyEngine, client: docker.APIClient
) -> None:
    label = secrets.token_hex(4)
    network = _network_in(tmp_path, engine)
    bare = BareContainers(tmp_path / "bare", network, engine, label=label)
    building = asyncio.create_task(bare.build(0, "slow", network.commits["slow"]))
    try:
        while not (found := await asyncio.to_thread(_running, client, label)):
            assert not building.done(), building.exception()
            await asyncio.sleep(0.05)
        of_bare = client.inspect_container(found[0]["Id"])["HostConfig"]
        client.kill(found[0]["Id"])
        with pytest.raises(BenchFailed, match="ended with 137"):
            await building
    finally:
        await asyncio.to_thread(bare.close)
    assert of_bare["CapDrop"] == ["ALL"]
    assert of_bare["ReadonlyRootfs"] is True
    assert of_bare["NetworkMode"] == "none"
    assert of_bare["SecurityOpt"] == ["no-new-privileges:true"]
    assert of_bare["Memory"] == of_bare["MemorySwap"] > 0
    assert of_bare["PidsLimit"] > 0
    assert of_bare["CpuQuota"] > 0
    assert set(of_bare["Tmpfs"]) == {"/workspace", "/home/build", "/tmp"}
    assert of_bare["Binds"] is None
