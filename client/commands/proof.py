"""proof: check how a verdict came about, from the request to the envelope."""

import argparse

import msgspec

from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import (
    Commands,
    cluster_flag,
    gateway_flags,
    gateway_to_read,
    read_cluster,
)
from client.views.proof_view import STEPS, BuildProof, ProofStep, proof_steps
from common.configuration.keys import verify
from common.safe_text import escape_controls


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "proof",
        parents=[common],
        help="check how a verdict came about: request, order, ballots, verdict, envelope",
        epilog="exit code: 0 if all of it holds, 1 if something does not, 2 if it cannot be told",
    )
    parser.add_argument("build", metavar="BUILD", help="the build's id, or the beginning of it")
    parser.add_argument("--step", choices=STEPS, help="check this step alone")
    gateway_flags(parser)
    cluster_flag(parser)
    parser.set_defaults(run=lambda options: run(_proof(options)))


async def _proof(options: argparse.Namespace) -> int:
    cluster = read_cluster(options)
    async with gateway_to_read(options) as gateway:
        build = await gateway.full_id(options.build)
        data = await gateway.proof(build)
    try:
        proof = msgspec.json.decode(data, type=BuildProof)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CommandFailed(f"the gateway's answer is no proof: {error}", EXIT_WRONG) from error
    if proof.build != build:
        raise CommandFailed("the gateway answered with another build's proof", EXIT_WRONG)
    steps = proof_steps(proof, cluster, verify)
    for step in steps:
        if options.step in (None, step.name):
            for line in _lines(step):
                print(line)
    wanted = [step for step in steps if options.step in (None, step.name)]
    return EXIT_NOT_PASSED if any(step.problem is not None for step in wanted) else EXIT_DONE


def _lines(step: ProofStep) -> list[str]:
    state = "holds" if step.is_checked else "not checked"
    if step.problem is not None:
        state = f"DOES NOT HOLD: {escape_controls(step.problem)}"
    lines = [f"{step.name:9} {state}: {escape_controls(step.text)}"]
    if step.sha256 is not None:
        lines.append(f"{'':9} sha256 {step.sha256}")
    for part in step.parts:
        problem = "" if part.problem is None else f" - {escape_controls(part.problem)}"
        lines.append(f"{'':9} {escape_controls(part.signer)}: {part.text}{problem} {part.sha256}")
    return lines
