"""client.views.proof_view: each step of a proof is checked, and what is forged is named."""

from pathlib import Path

import msgspec
import pytest

from ci.operations import Event, SubmitBuild, encode_operation
from ci.statement import pae, parse_statement, submitted_build_id
from client.api.proof_routes import kept_proof
from client.views.proof_view import STEPS, BuildProof, KeptSignature, ProofStep, proof_steps
from common.configuration.keys import verify
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import encode_signed
from tests.ci.builders import COMMIT, GATEWAY, cluster_of
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running, key_of
from tests.client.site import site_of


@pytest.fixture
async def proof(running: Running, tmp_path: Path) -> BuildProof:
    """That of a build which four replicas passed."""
    build = await running.gateway.submit(REPOSITORY, "master", COMMIT)
    await until(lambda: record_of(running, build).collected)
    return kept_proof(site_of(running, tmp_path), record_of(running, build))


def steps_of(proof: BuildProof) -> dict[str, ProofStep]:
    cluster = cluster_of(4)
    return {step.name: step for step in proof_steps(proof, cluster, verify, view=3)}


def wrong_in(proof: BuildProof) -> dict[str, str]:
    return {name: step.problem for name, step in steps_of(proof).items() if step.problem}


async def test_a_whole_proof_holds(proof: BuildProof) -> None:
    steps = steps_of(proof)
    assert tuple(steps) == STEPS
    assert wrong_in(proof) == {}
    assert [step.name for step in steps.values() if not step.is_checked] == ["webhook"]
    assert GATEWAY in steps["request"].text
    assert "in view 3" in steps["order"].text
    assert [part.signer for part in steps["ballots"].parts] == list(cluster_of(4).replica_names)
    said = [part.text for part in steps["ballots"].parts]
    assert said.count("passed, exit code 0, taken by the verdict") == 3
    assert said.count("passed, exit code 0, after the verdict") == 1
    assert "3 came before the verdict, 1 later" in steps["ballots"].text
    assert "by 3 equal ballots" in steps["verdict"].text
    assert len(steps["envelope"].parts) >= 2


async def test_what_was_changed_does_not_hold(proof: BuildProof) -> None:
    assert proof.statement is not None
    first, second, *rest = proof.ballots
    replace = msgspec.structs.replace
    swapped = replace(first, signed=second.signed)
    assert "ballots" in wrong_in(replace(proof, ballots=(swapped, second, *rest)))
    broken = replace(first, signed=first.signed[:-1] + bytes([first.signed[-1] ^ 1]))
    assert "ballots" in wrong_in(replace(proof, ballots=(broken, second, *rest)))
    assert "request" in wrong_in(replace(proof, request=first.signed))
    assert "request" in wrong_in(replace(proof, request=b"nonsense"))
    red = proof.statement.replace(b'"outcome":"passed"', b'"outcome":"failed"')
    assert {"verdict", "envelope"} <= wrong_in(replace(proof, statement=red)).keys()
    assert set(wrong_in(replace(proof, statement=b"{}"))) == {"verdict", "envelope"}
    other = b"x" * 64
    forged = tuple(KeptSignature(kept.replica, other) for kept in proof.signatures)
    assert wrong_in(replace(proof, signatures=forged)) == {"envelope": "these are too few"}
    twice = (proof.signatures[0],) * 4
    assert "envelope" in wrong_in(replace(proof, signatures=twice))
    # a good signature, and not a replica's
    own = KeptSignature(GATEWAY, key_of(GATEWAY).sign(pae(proof.statement)))
    with_gateway = replace(proof, signatures=(proof.signatures[0], own))
    assert wrong_in(with_gateway) == {"envelope": "these are too few"}


async def test_another_builds_proof_is_no_proof(proof: BuildProof) -> None:
    other = msgspec.structs.replace(proof, build="ab" * 32)
    assert {"request", "ballots", "verdict"} <= wrong_in(other).keys()


async def test_the_gateway_signed_for_another_build(proof: BuildProof) -> None:
    """A request with a good signature, which asks for something else."""
    cluster = cluster_of(4)
    operation = SubmitBuild(b"i" * 32, REPOSITORY, "other", COMMIT, event=Event.PUSH)
    identity = Identity(cluster, GATEWAY, key_of(GATEWAY).sign)
    signed = make_request(identity, 9, encode_operation(operation))
    forged = msgspec.structs.replace(proof, request=encode_signed(signed))
    assert wrong_in(forged) == {"request": "it asks for another build"}
    assert submitted_build_id(cluster.id, GATEWAY, operation).hex() != proof.build


async def test_a_build_that_has_begun_has_steps_to_come(proof: BuildProof) -> None:
    begun = BuildProof(proof.build, proof.request, (), None, ())
    assert wrong_in(begun) == {}
    assert [s.name for s in steps_of(begun).values() if s.is_checked] == ["request"]
    nothing = BuildProof(proof.build, None, (), None, ())
    assert not any(step.is_checked for step in steps_of(nothing).values())
    assert proof.statement is not None
    assert parse_statement(proof.statement).verdict.opened > 0
