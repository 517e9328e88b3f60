"""Four nodes, one engine, and all attacks at the same time beside a build that means well."""

from functools import partial
from pathlib import Path

import docker
import pytest

from tests.hostile.conftest import LIMITS, NEIGHBOUR, processes_of
from tests.node.conftest import FORK_BOMB, things_on
from tests.processes.network import Network, pipeline
from tests.waiting import block_until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.processes,
    pytest.mark.long,
    pytest.mark.timeout(600),
]


def attacks(image: str) -> dict[str, tuple[dict[str, str], tuple[str, int | None]]]:
    """Branches: their files, and the verdict that they deserve."""

    def runs(*commands: str) -> dict[str, str]:
        return pipeline(*commands, image=image, timeout_seconds=30)

    bomb = "".join(f"{'xyz'[n]}: &{'xyz'[n]} [*{'wxy'[n]}, *{'wxy'[n]}]\n" for n in range(3))
    flood = {"Dockerfile": f'FROM {image}\nRUN cat /dev/zero >/big\nCMD ["true"]\n'}
    return {
        "good": (runs(*NEIGHBOUR), ("passed", 0)),
        "fork": (runs(*FORK_BOMB), ("failed", 4)),
        "memory": (runs("tail /dev/zero"), ("out_of_memory", None)),
        "disk": (runs("cat /dev/zero >big || exit 5"), ("failed", 5)),
        "image": (flood, ("failed", 1)),
        "output": (runs("yes | head -c 50000000; exit 6"), ("failed", 6)),
        "daemons": (runs("(setsid sleep 600 &); (nohup sleep 600 &)"), ("passed", 0)),
        "group": (runs("kill -9 0; sleep 20"), ("failed", 137)),
        "yaml": ({".pbft-ci.yml": "w: &w [1]\n" + bomb}, ("pipeline_invalid", None)),
    }


def is_tidy(builds_folder: Path) -> bool:
    """Whether nothing is left of its builds but what is kept."""
    kept = {"log", "log-times", "commits", "artifacts"}
    return {path.name for path in builds_folder.glob("*/*")} <= kept


def test_attacks_on_four_nodes(
    docker_engine: docker.DockerClient, base_image: str, tmp_path: Path
) -> None:
    branches = attacks(base_image)
    overrides: dict[str, dict[str, object]] = {
        "cluster": {"limits": {**LIMITS, "build_seconds_max": 120, "deadline_seconds": 300}}
    }
    files = {branch: files for branch, (files, _) in branches.items()}
    with Network(tmp_path / "n", files, executor="docker", overrides=overrides) as network:
        network.start()
        builds = {branch: network.post(branch) for branch in branches}
        for branch, build in builds.items():
            verdict = network.complete(build, seconds=300)["verdict"]
            found = (verdict["outcome"], verdict["exit_code"])
            assert found == branches[branch][1], (branch, verdict)
        network.settle()
        cluster = network.status("node0")["cluster"]
        block_until(
            lambda: cluster not in things_on(docker_engine).values(), "an engine without ours"
        )
        block_until(
            lambda: not {pid for build in builds.values() for pid in processes_of(build)},
            "the end of all processes",
        )
        for name in network.node_names:
            assert network.is_running(name)
            builds_folder = network.data_directory(name) / "builds"
            # a work folder goes after its container
            block_until(partial(is_tidy, builds_folder), f"{name} without work folders")
