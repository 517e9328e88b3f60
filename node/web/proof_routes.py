"""Serves signed proofs: the provenance of a build, its late dissent, and the proof of the ledger.

All follow from what is on disk and ordered, so asking again gives the same answer.
"""

import asyncio
import base64
from contextlib import suppress
from functools import partial

from aiohttp import web

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.ledger_proof import LedgerProof, ledger_proof
from ci.operations import Ballot, CastBallot, decode_operation
from ci.provenance import provenance_bytes
from ci.statement import StatementView, envelope, keyid_for, pae, parse_statement
from ci.supplement import supplement_bytes
from node.outputs.artifact_store import kept_file
from node.replica.runtime import Runtime
from node.web.answers import http_error, number
from node.web.artifact_routes import Kept
from pbft.codec import decode_request, encode_signed


class ProofRoutes:
    """The routes under which a node proves things."""

    def __init__(self, runtime: Runtime, kept: Kept) -> None:
        """kept: has this replica's copies of the lists of what went in."""
        identity = runtime.identity
        self._cluster, self._name, self._sign = identity.cluster, identity.name, identity.sign
        self._runtime = runtime
        self._application = runtime.application
        self._store = runtime.store
        self._kept = kept
        # a list may be long: one is worked on at a time, beside the loop
        self._provenance_turn = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """To be added to the node's application."""
        return [
            web.get("/builds/{build:[0-9a-f]{64}}/provenance", self._provenance),
            web.get("/builds/{build:[0-9a-f]{64}}/supplement", self._supplement),
            web.get("/ledger/proof", self._ledger_proof),
        ]

    async def _provenance(self, request: web.Request) -> web.Response:
        """This replica's SLSA provenance of a decided build, in an envelope of its own."""
        build = bytes.fromhex(request.match_info["build"])
        opened = number(request, "opened", 0, low=0, high=2**62)
        data = self._store.ledger.find_statement(build)
        statement = None if data is None else parse_statement(data)
        if statement is None or statement.verdict.opened != opened:
            raise _no_verdict()
        ballot = self._own_ballot(build, opened)
        payload = None
        if ballot is not None:
            async with self._provenance_turn:
                payload = await asyncio.to_thread(
                    partial(self._provenance_of, statement, ballot, opened=opened)
                )
        if payload is None:
            raise http_error(web.HTTPNotFound, "this replica has no result of that build")
        return self._signed(payload)

    def _provenance_of(
        self, statement: StatementView, ballot: Ballot, *, opened: int
    ) -> bytes | None:
        """As `provenance_bytes`, with this replica's copy of the list if it still has one."""
        build = bytes.fromhex(statement.verdict.build)
        found = kept_file(self._kept.artifacts_path(build, opened), BILL_OF_MATERIALS)
        bill = None
        if found is not None:
            # it may just have been removed, as too old
            with suppress(OSError), found[0].open("rb") as file:
                bill = file.read(found[1].length + 1)
        return provenance_bytes(self._cluster, statement, self._name, ballot=ballot, bill=bill)

    async def _supplement(self, request: web.Request) -> web.Response:
        """?opened=&at=: what the ledger up to entry `at` has of ballots after the verdict.

        All is looked up by the build, so the work is bounded by the number of replicas.
        """
        build = bytes.fromhex(request.match_info["build"])
        opened = number(request, "opened", 0, low=0, high=2**62)
        ledger = self._store.ledger
        end, _ = ledger.end()
        if self._runtime.is_unsaved or self._application.ledger_index != end:
            raise http_error(
                web.HTTPServiceUnavailable,
                "this replica's ledger and state are not at one entry now: ask once more",
            )
        at = number(request, "at", end, low=0, high=2**62)
        if at > end:
            raise http_error(
                web.HTTPConflict, f"this replica's ledger ends at entry {end}: ?at={at} comes later"
            )
        found = ledger.find_verdict(build, at)
        if found is None or found[1].opened != opened:
            raise _no_verdict()
        position, verdict = found
        late = ledger.late_ballots(build, position, self._cluster.quorums.replicas)
        entries = ledger.entries(at, 1)
        if late is None or not entries:
            raise http_error(
                web.HTTPServiceUnavailable,
                "this replica lacks ledger entries after that verdict, and fetches them: ask"
                " another one, or once more",
            )
        late = [(index, entry) for index, entry in late if entry.opened == opened]
        is_open = self._application.is_open(build, opened)
        payload = supplement_bytes(
            self._cluster,
            verdict,
            [(index, entry) for index, entry in late if index <= at],
            ledger_index=at,
            ledger_head=entries[0].head,
            is_final=not is_open and all(index <= at for index, _ in late),
        )
        return self._signed(payload)

    def _signed(self, payload: bytes) -> web.Response:
        """The envelope of this replica's own statement."""
        public_key = self._cluster.public_key(self._name)
        assert public_key is not None, "this replica is in its genesis"
        return web.json_response(
            envelope(payload, [(keyid_for(public_key), self._sign(pae(payload)))])
        )

    def _own_ballot(self, build: bytes, opened: int) -> Ballot | None:
        """The ballot of this replica that was ordered."""
        for ballot_opened, replica, signed in self._store.ballots.of(build):
            if replica == self._name and ballot_opened == opened:
                operation = decode_operation(decode_request(signed).operation)
                assert isinstance(operation, CastBallot), "what the store keeps as a ballot"
                return operation.ballot
        return None

    async def _ledger_proof(self, request: web.Request) -> web.Response:
        """The newest stable checkpoint's certificate, opened up to the ledger's head."""
        if self._runtime.is_unsaved:
            # Our own CHECKPOINT may be in it.
            raise http_error(
                web.HTTPServiceUnavailable,
                "this replica's disk refuses what it said last: ask another one, or once more",
            )
        core = self._runtime.replica.core
        certificate = core.checkpoints.stable
        if not certificate.checkpoints:
            raise http_error(
                web.HTTPNotFound,
                f"no checkpoint is stable yet: there is one each {core.interval} numbers",
            )
        return web.json_response(
            proof_fields(
                ledger_proof(
                    certificate.sequence, certificate.checkpoints, core.checkpoints.stable_parts
                )
            )
        )


def proof_fields(proof: LedgerProof) -> dict[str, object]:
    """A proof as JSON: bytes in base64."""
    return {
        "sequence": proof.sequence,
        "checkpoints": [_text(encode_signed(signed)) for signed in proof.checkpoints],
        "leaves": [[name, _text(digest)] for name, digest in proof.leaves],
        "ledger_part": _text(proof.ledger_part),
    }


def _no_verdict() -> web.HTTPException:
    return http_error(web.HTTPNotFound, "this replica knows no verdict of that build")


def _text(data: bytes) -> str:
    return base64.standard_b64encode(data).decode()
