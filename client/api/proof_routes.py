"""All that is signed about a build, for whoever checks it without this gateway."""

import functools

from aiohttp import web

from client.api.routes import Site, json_response
from client.storage.archive import BuildRecord
from client.views.proof_view import BuildProof, KeptBallot, KeptSignature

PATH = "/api/v1/builds/{build}/proof"


def add_proof_routes(application: web.Application, site: Site) -> None:
    """Add the route."""
    application.router.add_get(PATH, functools.partial(_show_proof, site))


def kept_proof(site: Site, record: BuildRecord) -> BuildProof:
    """What the archive has of it. Raises StorageFailed."""
    return BuildProof(
        build=record.build.hex(),
        request=record.request,
        ballots=tuple(
            KeptBallot(ballot.replica, ballot.signed)
            for ballot in site.archive.ballots(record.build)
        ),
        statement=record.statement,
        signatures=tuple(
            KeptSignature(reply.replica, reply.attestation)
            for reply in site.archive.replies(record.build)
            if reply.attestation is not None
        ),
    )


async def _show_proof(site: Site, request: web.Request) -> web.Response:
    """GET /api/v1/builds/<id>/proof."""
    return json_response(kept_proof(site, site.record(request)))
