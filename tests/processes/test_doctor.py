"""Members that run are asked how they are, with the tokens that they want."""

import tarfile
from pathlib import Path

import pytest

from tests.processes.network import CLIENT, Network, pipeline
from tests.processes.programs import run
from tests.secret_files import secret_file

pytestmark = pytest.mark.processes


def report_of(network: Network, program: str, name: str) -> dict[str, str]:
    """Run `doctor` of that member; the parts of its report by name."""
    output = network.folder / f"{name}.tar.gz"
    command = ("--config", str(network.config_file(name)), "doctor", "--output", str(output))
    ended = run("-m", program, *command)
    assert ended.code == 0, ended
    with tarfile.open(output) as opened:
        found = {}
        for member in opened.getmembers():
            stream = opened.extractfile(member)
            assert stream is not None
            found[member.name.partition("/")[2]] = stream.read().decode()
        return found


@pytest.mark.parametrize("tls", ["off", "required"])
def test_members_that_run_answer(tmp_path: Path, tls: str) -> None:
    token = secret_file(tmp_path / "token", "a-token-for-whoever-reads")
    tokens = {"read_token_file": str(token)}
    overrides = {"node0": tokens, CLIENT: tokens, "cluster": {"tls": tls}}
    branches = {"green": pipeline("echo green")}
    with Network(tmp_path / "network", branches, overrides=overrides) as network:
        network.start()
        node = report_of(network, "node", "node0")
        gateway = report_of(network, "client", CLIENT)
    for texts, name in ((node, "status.txt"), (gateway, "network.txt")):
        assert texts[name].startswith("200\n{")
        assert texts["metrics.txt"].startswith("200\n#")
        # whether it is ready depends on the others
        assert texts["readyz.txt"].partition("\n")[0] in ("200", "503")
        assert "pbftci_" in texts["metrics.txt"]
        assert "is in use" in texts["check.txt"]
        assert "a-token-for-whoever-reads" not in "".join(texts.values())
    assert '"node_id": "node0"' in node["status.txt"]
