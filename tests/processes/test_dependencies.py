"""What goes into steps, on four real nodes: lock files with four mirrors, of which one sends other
bytes, and hosts by name."""

import hashlib
import json
from contextlib import ExitStack, closing
from pathlib import Path

import docker
import pytest

from ci.artifact_rules import BILL_OF_MATERIALS
from scripts.relay_image import ensure_relay_image
from tests.node.dependencies.mirror import Mirror, running_mirror
from tests.processes.network import Network
from tests.processes.programs import client

pytestmark = [pytest.mark.docker, pytest.mark.processes]

WHEEL = b"a wheel"
WHEEL_NAME = "foo-1.0-py3-none-any.whl"
# the step is offline, sees the files where tools look for them, and cannot change them
COMMANDS = [
    f"test \"$(cat $PIP_FIND_LINKS/{WHEEL_NAME})\" = 'a wheel'",
    "if echo x >/pbft-ci-inputs/x; then false; fi",
]
HOST, OTHER_HOST = "packages.example.org", "others.example.org"
# No name means this machine. That the proxy of a node refuses one shows that the step reaches it.
NAMED = {
    "network": [HOST],
    "commands": [f"if wget -O - http://{OTHER_HOST}/; then exit 9; fi"],
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def serve(mirror: Mirror, wheel: bytes) -> None:
    link = f'<a href="{WHEEL_NAME}#sha256={sha256(WHEEL)}">{WHEEL_NAME}</a>'
    mirror.files = {"/foo/": link.encode(), f"/foo/{WHEEL_NAME}": wheel}


def check_proof(network: Network, build: str, folder: Path) -> None:
    """What a consumer checks offline: the list, that lines of provenance name all of it, and that
    no step had a network."""
    envelope, made = folder / "proof.intoto.json", folder / "made"
    assert client(network, "attest", build, "--output", str(envelope)).code == 0
    assert client(network, "artifacts", build, "--output", str(made)).code == 0
    lines = folder / "proof.provenance.intoto.jsonl"
    asked = (
        *("verify", str(envelope), "--any", "--provenance", str(lines)),
        *("--no-network", str(folder / "pipeline.yml"), "--sbom", str(made / BILL_OF_MATERIALS)),
    )
    ended = client(network, *asked)
    assert ended.code == 0, ended
    assert "provenance  complete, by node0, node1, node2\n" in ended.output
    assert client(network, *asked[:-2]).code == 2, "the list is missing"
    first, *rest = lines.read_bytes().splitlines()
    lines.write_bytes(b"\n".join([*rest, first.replace(b'"sig": "', b'"sig": "AA')]))
    assert client(network, *asked).code == 2, "a line is of nobody"


def check_hosts_by_name(network: Network) -> None:
    """A step that names a host has a way to it and to no other, on each node; each log says so."""
    view = network.complete(build := network.post("named"))
    assert view["verdict"]["outcome"] == "passed"
    for name in network.node_names:
        (log,) = (network.data_directory(name) / "builds").glob(f"{build}-*/log")
        text = log.read_text()
        assert f"network: refused: {OTHER_HOST}:80 is not among the hosts of this step" in text


def test_one_mirror_of_four_sends_other_bytes(tmp_path: Path, base_image: str) -> None:
    """Three replicas agree on all that went in, and the fourth says what it was sent."""
    pipeline = {
        "image": base_image,
        "commands": COMMANDS,
        "dependencies": [{"pip": "requirements.txt"}],
    }
    files = {
        ".pbft-ci.yml": json.dumps(pipeline),
        "requirements.txt": f"foo==1.0 --hash=sha256:{sha256(WHEEL)}\n",
    }
    unpinned = {**files, "requirements.txt": "foo==1.0\n"}
    named = {".pbft-ci.yml": json.dumps({"image": base_image, **NAMED})}
    with closing(docker.from_env()) as engine:
        relay = {"network_hosts": [HOST], "network_relay_image": ensure_relay_image(engine)}
    with ExitStack() as stack:
        mirrors = [stack.enter_context(running_mirror()) for _ in range(4)]
        for number, mirror in enumerate(mirrors):
            serve(mirror, b"tampered" if number == 3 else WHEEL)
        overrides = {
            f"node{number}": {"sources": [{"tool": "pip", "url": mirror.url}], **relay}
            for number, mirror in enumerate(mirrors)
        }
        network = stack.enter_context(
            Network(
                tmp_path / "n",
                {"master": files, "unpinned": unpinned, "named": named},
                executor="docker",
                overrides=overrides,
            )
        )
        network.start()
        build = network.post("master")
        view = network.complete(build)
        verdict = view["verdict"]
        assert verdict["outcome"] == "passed"
        (bill,) = view["artifacts"]
        assert bill["path"] == BILL_OF_MATERIALS
        states = {row["replica"]: row["state"] for row in view["replicas"]}
        assert states["node3"] == "found dependencies_unavailable"
        (log,) = (network.data_directory("node3") / "builds").glob(f"{build}-*/log")
        text = log.read_text()
        assert f"{mirrors[3].url}/foo/{WHEEL_NAME} sent other bytes of pip foo 1.0" in text
        assert sha256(b"tampered") in text

        (tmp_path / "pipeline.yml").write_text(files[".pbft-ci.yml"])
        check_proof(network, build, tmp_path)

        check_hosts_by_name(network)

        build = network.post("unpinned")
        view = network.complete(build)
        assert view["verdict"]["outcome"] == "pipeline_invalid"
