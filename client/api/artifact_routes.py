"""The routes of artifacts at the gateway: the agreed list, and files checked against it."""

import base64
import re
from urllib.parse import quote

from aiohttp import web

from ci.ledger import RecordedArtifact
from ci.statement import parse_statement
from client.api.routes import ApiError, Site, json_response
from client.network.artifact_fetch import Artifacts, NoneRight, TooMany
from client.storage.archive import BuildRecord
from common.web.bounded_http import CannotWrite
from common.web.sent_file import send_file

LIST_PATH = "/api/v1/builds/{build}/artifacts"
FILE_PATH = LIST_PATH + "/{path:.+}"
AGAIN_SECONDS = 5

_PLAIN_NAME = re.compile(r"[^A-Za-z0-9._+-]")


class ArtifactApi:
    """Serves what the network agreed on, and nothing else."""

    def __init__(self, site: Site, artifacts: Artifacts) -> None:
        self._site = site
        self._artifacts = artifacts

    def add_routes(self, application: web.Application) -> None:
        """Add them."""
        application.router.add_get(LIST_PATH, self._list)
        application.router.add_get(FILE_PATH, self._send)

    async def _list(self, request: web.Request) -> web.Response:
        """GET .../artifacts: the agreed files, who agrees, and where others differ."""
        record = self._site.record(request)
        if record.statement is None:
            raise ApiError(404, "no verdict yet; artifacts are agreed on with it")
        view = self._site.view(record)
        assert view.verdict is not None, "there is a statement"
        return json_response(
            {
                "build": view.id,
                "outcome": view.verdict.outcome,
                "artifacts": view.artifacts,
                "agreeing": view.verdict.agreeing,
                "differences": view.artifact_differences,
            }
        )

    async def _send(self, request: web.Request) -> web.StreamResponse:
        """GET .../artifacts/<path>: the file, once all of it is here and has the agreed digest.

        502 names what is wrong with each replica that should have it.
        """
        record = self._site.record(request)
        opened, artifact = _agreed(record, request.match_info["path"])
        headers = _headers(artifact)
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers={"ETag": headers["ETag"]})
        if request.method == "HEAD":
            return web.Response(headers=headers)
        verdict = self._site.view(record).verdict
        assert verdict is not None, "something is agreed on"
        try:
            async with self._artifacts.fetched(
                record.build, opened, artifact, replicas=verdict.agreeing
            ) as file:
                return await send_file(request, file, headers)
        except TooMany as error:
            raise ApiError(503, str(error), AGAIN_SECONDS) from error
        except NoneRight as error:
            raise ApiError(502, f"{artifact.path}: {error}", AGAIN_SECONDS) from error
        except (CannotWrite, OSError) as error:
            raise ApiError(
                503, "the gateway cannot store the file to check it; try again later", AGAIN_SECONDS
            ) from error


def _agreed(record: BuildRecord, path: str) -> tuple[int, RecordedArtifact]:
    """The opening of the build, and the agreed artifact of that path. Raises ApiError."""
    if record.statement is None:
        raise ApiError(404, "no verdict yet; artifacts are agreed on with it")
    verdict = parse_statement(record.statement).verdict
    for artifact in verdict.artifacts:
        if artifact.path == path:
            return verdict.opened, artifact
    listed = f"/api/v1/builds/{record.build.hex()}/artifacts"
    raise ApiError(404, f"the build is {verdict.outcome}, and no such file was agreed on: {listed}")


def _headers(artifact: RecordedArtifact) -> dict[str, str]:
    """A stranger's bytes: to be saved under a plain name, never to be shown."""
    name = artifact.path.rpartition("/")[2]
    plain = _PLAIN_NAME.sub("_", name)
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    return {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(artifact.length),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
