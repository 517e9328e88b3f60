"""artifacts: what a build made and the network agreed on, listed or fetched and checked."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from ci.artifact_rules import path_problem
from ci.operations import Artifact
from client.commands.gateway_client import GatewayApi, run
from client.commands.outcome import EXIT_WRONG, CommandFailed, exit_of_outcome
from client.commands.targets import Commands, gateway_flags, gateway_to_read, json_flag
from common.safe_text import escape_controls, log_text


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "artifacts",
        parents=[common],
    )
    parser.add_argument(
        "build", metavar="BUILD", help="the build's id, or its first 6 digits or more"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="fetch all of them into this folder, and check them",
    )
    json_flag(parser)
    gateway_flags(parser)
    parser.set_defaults(run=lambda options: run(_artifacts(options)))


async def _artifacts(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        build = await gateway.full_id(options.build)
        listed = await gateway.artifacts(build)
        artifacts = _checked(listed)
        if options.json:
            print(json.dumps(listed))
        else:
            for artifact in artifacts:
                print(f"{artifact.sha256}  {escape_controls(artifact.path)}")
        for line in difference_lines(listed["differences"]):
            print(line, file=sys.stderr)
        if options.output is not None:
            for artifact in artifacts:
                await _fetch(gateway, build, artifact, folder=options.output)
    names = ", ".join(listed["agreeing"]) or "nobody"
    print(f"{listed['outcome']}; agreed on by {names}", file=sys.stderr)
    return exit_of_outcome(listed["outcome"])


def difference_lines(differences: list[dict[str, Any]]) -> list[str]:
    """Where replicas made different files, for people."""
    lines = []
    for difference in differences:
        lines.append(f"differs     {escape_controls(difference['path'])}")
        for found in difference["found"]:
            what = "nothing there"
            if found["sha256"] is not None:
                what = f"{found['sha256']} ({found['length']} bytes)"
            lines.append(f"  {', '.join(found['replicas']):20}  {what}")
    return lines


def _checked(listed: dict[str, Any]) -> tuple[Artifact, ...]:
    """The gateway's list; its paths become files here, so none may lead elsewhere."""
    try:
        artifacts = tuple(
            msgspec.convert([entry["path"], entry["sha256"], entry["length"]], Artifact)
            for entry in listed["artifacts"]
        )
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise CommandFailed(f"the gateway's answer is not a list of artifacts ({error})") from error
    for artifact in artifacts:
        problem = path_problem(artifact.path)
        if problem is not None:
            raise CommandFailed(f"artifact {log_text(artifact.path)} {problem}", EXIT_WRONG)
    return artifacts


async def _fetch(gateway: GatewayApi, build: str, artifact: Artifact, *, folder: Path) -> None:
    """Fetch one into the folder, whole and right or not at all."""
    target = folder / artifact.path
    try:
        _make_folders(folder, target.parent)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".fetching-") as file:
            opened = cast(BinaryIO, file)
            digest = await gateway.artifact(build, artifact.path, artifact.length, file=opened)
            if digest != artifact.sha256:
                raise CommandFailed(
                    f"{artifact.path}: the gateway sent bytes that its list does not name",
                    EXIT_WRONG,
                )
            file.flush()
            target.unlink(missing_ok=True)
            target.hardlink_to(file.name)
            target.chmod(0o644)
    except OSError as error:
        raise CommandFailed(f"{target}: cannot be written ({error.strerror})") from error


def _make_folders(folder: Path, wanted: Path) -> None:
    """The folder and what is below it, down to the wanted one. Raises CommandFailed, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder
    for part in wanted.relative_to(folder).parts:
        place /= part
        if place.is_symlink():
            raise CommandFailed(f"{place}: is a link; remove it first", EXIT_WRONG)
        place.mkdir(exist_ok=True)
