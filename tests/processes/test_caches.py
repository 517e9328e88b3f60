"""Caches on four real nodes: the verdict in the ledger has each of them keep what it made."""

import json
from pathlib import Path

import pytest

from tests.processes.network import VERDICT_SECONDS, Network
from tests.processes.programs import client

pytestmark = [pytest.mark.docker, pytest.mark.processes]

# In the cache, vendor/own is another file than the commit's, which wins.
MAKE = """if test -e $HOME/made && test -e vendor/made; then
  test "$(cat vendor/own)" = commit
  echo warm
else
  echo cold; echo x >$HOME/made; echo x >vendor/made; echo other >vendor/own
fi"""


def test_the_next_build_finds_what_the_verdict_confirmed(tmp_path: Path, base_image: str) -> None:
    cache = [{"name": "made", "paths": ["$HOME/made", "vendor"], "files": ["lock"]}]
    text = json.dumps({"image": base_image, "commands": [MAKE], "cache": cache})
    files = {".pbft-ci.yml": text, "lock": "1", "vendor/own": "commit"}
    network = Network(tmp_path / "n", {"master": files, "other": files}, executor="docker")
    with network:
        network.start()

        def warm(branch: str) -> set[str]:
            """The nodes whose build found what was made before."""
            return warm_in(network.post(branch))

        def warm_in(build: str) -> set[str]:
            view = network.complete(build)
            assert view["verdict"]["outcome"] == "passed"
            network.settle()
            found = {ballot["replica"] for ballot in view["ballots"] if ballot["caches"]}
            assert found == {
                name for name in network.node_names if b"\nwarm\n" in logs_of(network, name, build)
            }
            return found

        def kept(name: str) -> bool:
            metrics = network.node(name, "/metrics").body.decode()
            return 'pbftci_caches{what="entries"} 1.0' in metrics

        # another branch writes nothing
        assert warm("other") == set()
        assert warm("master") == set()
        network.wait_until(
            lambda: all(kept(name) for name in network.node_names),
            lambda: "an entry on each node",
            VERDICT_SECONDS,
        )
        assert warm("other") == set(network.node_names)
        build = network.post("master")
        assert warm_in(build) == set(network.node_names)
        cold = client(network, "rebuild", build, "--cold").output.strip()
        assert warm_in(cold) == set()
        assert f"rebuild of  {build}, without caches\n" in client(network, "status", cold).output


def logs_of(network: Network, name: str, build: str) -> bytes:
    (file,) = (network.data_directory(name) / "builds").glob(f"{build}-*/log")
    return file.read_bytes()
