"""Builds that want too much: time, log, processes. Each ends by its limit, and others go on."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.node.conftest import FORK_BOMB, things_of
from tests.processes.network import VERDICT_SECONDS, Network, ask, pipeline
from tests.waiting import block_until

pytestmark = [pytest.mark.processes, pytest.mark.docker]

LOG_BYTES_MAX = 256 * 1024
# Many times what may be kept, and twice what a node may need more for it.
WRITTEN_BYTES = 32 * 1024 * 1024
MEMORY_GROWTH_MAX = 16 * 1024 * 1024


@pytest.fixture(scope="module")
def network(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Small limits, and a branch for each way to hit one."""
    branches = {
        "green": pipeline("echo green", image=base_image),
        "slow": pipeline(
            "echo before", "sleep 600", "echo after", image=base_image, timeout_seconds=20
        ),
        "talkative": pipeline(
            "echo the first line",
            f"yes 0123456789abcde | head -c {WRITTEN_BYTES}",
            "echo the last line",
            image=base_image,
        ),
        "bomb": pipeline(*FORK_BOMB, image=base_image),
    }
    limits = {"log_bytes_max": LOG_BYTES_MAX, "pids_max": 64, "memory_bytes": 64 * 2**20}
    folder = tmp_path_factory.mktemp("limits")
    overrides = {"cluster": {"limits": limits}}
    with Network(folder, branches, executor="docker", overrides=overrides) as made:
        made.start()
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(network: Network, docker_engine: docker.DockerClient) -> Iterator[None]:
    """After each test no container and no image of this network is there any more."""
    yield
    cluster_id = bytes.fromhex(network.status("node0")["cluster"])
    block_until(lambda: not things_of(docker_engine, cluster_id), "nothing is left")


def test_a_build_over_its_time_is_timed_out(network: Network) -> None:
    view = network.complete(network.post("slow"))
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("timed_out", None)
    assert sorted(view["verdict"]["agreeing"]) == list(network.node_names)
    log = read_log(network, view["id"], "node0")
    assert b"before\n" in log
    assert b"after\n" not in log


def test_a_long_log_is_cut_and_not_held_in_memory(network: Network) -> None:
    network.complete(network.post("green"))
    before = {name: memory_bytes_most(network.processes[name].pid) for name in network.node_names}
    view = network.complete(network.post("talkative"))
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("passed", 0)
    for ballot in view["ballots"]:
        log = read_log(network, view["id"], ballot["replica"])
        assert LOG_BYTES_MAX // 2 < len(log) <= LOG_BYTES_MAX
        assert b"the first line\n" in log[:1000]
        assert b"the last line\n" in log[-1000:]
        assert b" bytes were cut here " in log
        assert hashlib.sha256(log).hexdigest() == ballot["log_sha256"]
    for name in network.node_names:
        grown = memory_bytes_most(network.processes[name].pid) - before[name]
        assert grown < MEMORY_GROWTH_MAX, (name, grown)
        assert folder_bytes(network.data_directory(name) / "builds") < 10 * LOG_BYTES_MAX


def test_a_fork_bomb_harms_nobody_else(network: Network) -> None:
    bomb = network.post("bomb")
    network.wait_until(
        lambda: network.build(bomb)["status"] == "building", "the bomb burns", VERDICT_SECONDS
    )
    green = network.verdict(network.post("green"))
    assert (green["verdict"]["outcome"], green["verdict"]["exit_code"]) == ("passed", 0)
    view = network.complete(bomb)
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("failed", 4)
    assert sorted(view["verdict"]["agreeing"]) == list(network.node_names)
    assert b"can't fork" in read_log(network, bomb, "node0"), "it was no bomb"
    network.settle()


def read_log(network: Network, build: str, replica: str) -> bytes:
    answer = ask(f"{network.gateway_url}/api/v1/builds/{build}/log/{replica}")
    assert answer.status == 200
    return answer.body


def memory_bytes_most(pid: int) -> int:
    """The most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def folder_bytes(folder: Path) -> int:
    """What is in a folder; what a node removes meanwhile counts for nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
