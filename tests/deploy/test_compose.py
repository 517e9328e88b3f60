"""The compose files: whether compose takes them, and whether what they name is there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.container_image import CONFIGURATION, DATA, IMAGE, USER_ID
from scripts.folders import ROOT
from tests.pbft_ci.installation import Installation

FOLDER = ROOT / "deploy"
PLACES = ("operator", "trial")
VARIABLES = {"DOCKER_GID": "0", "REPOSITORY": "/srv/git/example.git"}
# the trial cluster is made meanwhile, by fourteen of our programs
SECONDS_MAX = 500


def compose(place: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """What compose answers in that folder. Skips the test where there is none."""
    if shutil.which("docker-compose") is not None:
        command = ["docker-compose"]
    else:
        command = ["docker", "compose"]
        asked = [*command, "version"]
        if (
            shutil.which("docker") is None
            or subprocess.run(asked, capture_output=True, check=False).returncode != 0
        ):
            pytest.skip("compose is not here: `./scripts/test.sh --full` installs docker-compose")
    return subprocess.run(
        [*command, *arguments],
        cwd=place,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def services(place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = (FOLDER / place / "compose.yaml").read_text()
    yield from yaml.safe_load(text)["services"].items()


@pytest.mark.parametrize("place", PLACES)
def test_compose_takes_the_file(place: str) -> None:
    answer = compose(FOLDER / place, "config", "--quiet", **VARIABLES)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("place", PLACES)
def test_a_missing_variable_is_named(place: str) -> None:
    answer = compose(FOLDER / place, "config", "--quiet", DOCKER_GID="", REPOSITORY="x")
    assert answer.returncode != 0
    assert "the number of the group of the engine's socket" in answer.stderr


@pytest.mark.parametrize("place", PLACES)
def test_no_service_has_rights(place: str) -> None:
    for name, service in services(place):
        assert service["image"] == f"${{PBFT_CI_IMAGE:-{IMAGE}}}", name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert "user" not in service
        has_socket = any("docker.sock" in volume for volume in service["volumes"])
        assert has_socket is name.startswith("node"), name


@pytest.mark.parametrize("place", PLACES)
def test_every_path_is_there(place: str) -> None:
    named = 0
    for _, service in services(place):
        mounted = [volume.rpartition("}")[2] or volume for volume in service["volumes"]]
        targets = [volume.removeprefix(":").split(":")[-2:] for volume in service["volumes"]]
        assert any(CONFIGURATION in target for target in targets)
        for volume in mounted:
            if volume.startswith("./") and not volume.startswith("./configuration"):
                assert (FOLDER / place / volume.split(":")[0]).is_file()
                named += 1
    assert named == (1 if place == "trial" else 0)


def command_lines(place: str) -> Iterator[str]:
    """Each call of ours in the files of a place."""
    for file in sorted((FOLDER / place).iterdir()):
        text = file.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            code = line.partition("#")[0].replace(", ", " ").replace('"', "").replace("'", "")
            yield from re.findall(r"\bpbft-ci(?:-node|-gateway)?\b(?! *:)(?: [^]|)&;]*)?", code)


@pytest.mark.parametrize("place", PLACES)
def test_every_command_is_one_of_an_installation(place: str, installation: Installation) -> None:
    seen = set()
    for line in command_lines(place):
        program, *words = line.split()
        if program == "pbft-ci" and not words:
            # the image's name
            continue
        commands = [
            word
            for word in words
            if re.fullmatch(r"init|confirm|healthcheck|cluster|assemble|fingerprint", word)
        ]
        seen.add((program, *commands))
    wanted = {
        "trial": {
            ("pbft-ci-node",),
            ("pbft-ci-node", "healthcheck"),
            ("pbft-ci-node", "init"),
            ("pbft-ci-node", "confirm"),
            ("pbft-ci-gateway",),
            ("pbft-ci-gateway", "healthcheck"),
            ("pbft-ci-gateway", "init"),
            ("pbft-ci-gateway", "confirm"),
            ("pbft-ci", "cluster", "assemble"),
            ("pbft-ci", "cluster", "fingerprint"),
        },
        "operator": {("pbft-ci-node",), ("pbft-ci-gateway",), ("pbft-ci-gateway", "healthcheck")},
    }
    assert seen == wanted[place]
    for program, *commands in sorted(seen):
        helped = installation.run(program, *commands, "--help")
        assert helped.returncode == 0, helped.stderr


def test_what_the_readme_says_of_the_image() -> None:
    page = (FOLDER / "README.md").read_text()
    assert f"docker save {IMAGE} " in page
    assert f"-o {USER_ID} -g {USER_ID} configuration" in page
    assert f"| `{DATA}` | all that the member writes" in page
