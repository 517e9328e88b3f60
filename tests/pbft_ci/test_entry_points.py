"""The three installed commands, from a folder that has nothing of ours."""

import functools
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from common.version import VERSION
from scripts.harness import Programs
from tests.pbft_ci.installation import Installation, copied, environment
from tests.pbft_ci.test_distributions import SHIPPED
from tests.processes.network import Network, pipeline

COMMANDS = ("pbft-ci-node", "pbft-ci-gateway", "pbft-ci")


def start_installed(
    installation: Installation,
    command: Sequence[str],
    files: Sequence[IO[Any]],
    variables: Mapping[str, str],
) -> "subprocess.Popen[bytes]":
    """Start the installed command that is this `-m MODULE ARGUMENTS...` of a checkout."""
    stdin, stdout, stderr = files
    _, module, *arguments = command
    name = {"node": "pbft-ci-node", "client": "pbft-ci-gateway"}[module]
    return subprocess.Popen(
        [installation.command(name), *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=installation.folder,
        env=environment(variables),
        start_new_session=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_shows_its_name_and_version(installation: Installation, name: str) -> None:
    helped = installation.run(name, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: {name} [-h]")
    assert "/etc/pbft-ci" in helped.stdout
    assert "example-config" not in helped.stdout
    versioned = installation.run(name, "--version")
    assert (versioned.returncode, versioned.stdout.split()[-1]) == (0, VERSION)


def test_one_serves_and_one_asks(installation: Installation) -> None:
    served = installation.run("pbft-ci-gateway", "status")
    assert (served.returncode, "invalid choice: 'status'" in served.stderr) == (2, True)
    asked = installation.run("pbft-ci")
    assert (asked.returncode, "arguments are required: COMMAND" in asked.stderr) == (2, True)


def test_others_may_have_packages_of_the_same_names(
    installation: Installation, tmp_path: Path
) -> None:
    installation = copied(installation, tmp_path / "copy")
    for name in SHIPPED:
        (installation.packages / f"{name}.py").write_text("HELD = 'of others'\n")
    asked = installation.run("pbft-ci", "--version")
    assert (asked.returncode, asked.stdout) == (0, f"PBFT/CI {VERSION}\n")
    code = "import sys; print([__import__(name).HELD for name in sys.argv[1:]])"
    imported = installation.run("python", "-c", code, *SHIPPED)
    assert imported.stdout == f"{['of others'] * len(SHIPPED)}\n"


@pytest.mark.long
@pytest.mark.processes
def test_four_nodes_and_a_gateway_come_to_a_verdict(
    installation: Installation, tmp_path: Path
) -> None:
    branches = {"main": pipeline("echo built by an installed node")}
    start = functools.partial(start_installed, installation)
    with Network(tmp_path / "network", branches, programs=Programs(start)) as network:
        network.start()
        view = network.complete(network.post("main"))
        assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("passed", 0)
        asked = ("--gateway", network.gateway_url)
        shown = installation.run("pbft-ci", "status", view["id"], *asked)
        assert shown.returncode == 0, shown.stderr
        assert "passed" in shown.stdout
        envelope = str(tmp_path / "build.intoto.json")
        cluster = ("--cluster", str(network.config_file("cluster")))
        fetched = installation.run(
            "pbft-ci", "attest", view["id"], *asked, *cluster, "--output", envelope
        )
        assert fetched.returncode == 0, fetched.stderr
        expected = ("--repository", view["repository"], "--commit", view["commit"])
        verified = installation.run("pbft-ci", "verify", envelope, *cluster, *expected)
        assert verified.returncode == 0, verified.stderr
