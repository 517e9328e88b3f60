"""A running gateway over HTTP, for the commands: its JSON as values, its errors as one line."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Coroutine, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp

from client.commands.outcome import EXIT_NO_ANSWER, EXIT_TOO_LATE, EXIT_WRONG, CommandFailed
from common.log_pieces import ServedPiece, read_piece
from common.web.bounded_http import (
    Answer,
    AnswerBounds,
    CannotWrite,
    HttpRequest,
    NoAnswer,
    NotInTime,
    ask,
    bounded_session,
    decode_json,
    save,
)

CONNECT_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 60.0
ARTIFACT_BYTES_PER_SECOND_MIN = 256 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
BUILD_ID_CHARACTERS = 64
_BUILD_ID = re.compile(r"[0-9a-f]{6,64}")
CASES_AT_ONCE = 500
INPUTS_AT_ONCE = 1000
PAGES_MAX = 100
# The gateway is busy, or it cannot reach the replica now.
ASK_AGAIN_STATUSES = (502, 503)

_Result = TypeVar("_Result")


class GatewayApi:
    """The API of one gateway. Use it as an async context manager. All calls raise CommandFailed."""

    def __init__(
        self, url: str, webhook_secret: bytes | None = None, token: bytes | None = None
    ) -> None:
        """webhook_secret: to sign with where the gateway builds nothing that is not signed.

        token: to show where the gateway lets only those read or change builds who have one.
        """
        self.url = url.rstrip("/")
        self._webhook_secret = webhook_secret
        self._shown = {} if token is None else {"Authorization": f"Bearer {token.decode('ascii')}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = bounded_session(CONNECT_TIMEOUT_SECONDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def submit(
        self, branch: str, repository: str | None, commit: str | None
    ) -> dict[str, Any]:
        """POST /webHook: {"build", "url"}."""
        body = {"branch": branch}
        if repository is not None:
            body["repoCloneUrl"] = repository
        if commit is not None:
            body["commit"] = commit
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self._webhook_secret is not None:
            signature = hmac.new(self._webhook_secret, data, hashlib.sha256).hexdigest()
            headers["X-Hub-Signature-256"] = f"sha256={signature}"
        return _object(await self._ask("POST", "/webHook", body=data, headers=headers))

    async def build(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>. `build` may be the beginning of an id."""
        text = build.lower()
        if not _BUILD_ID.fullmatch(text):
            raise CommandFailed(
                f"{build!r} is not a build id; give 6 to {BUILD_ID_CHARACTERS} of its digits",
                EXIT_WRONG,
            )
        not_found = EXIT_NO_ANSWER if len(text) == BUILD_ID_CHARACTERS else EXIT_WRONG
        return _object(await self._ask("GET", f"/api/v1/builds/{text}", not_found=not_found))

    async def builds(
        self, limit: int, only: Mapping[str, str] = MappingProxyType({})
    ) -> list[dict[str, Any]]:
        """The newest builds, at most `limit`. only: as the parameters of the gateway's list."""
        builds: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while len(builds) < limit:
            query = urlencode({**only, "limit": str(min(100, limit - len(builds))), **after})
            page = _object(await self._ask("GET", f"/api/v1/builds?{query}"))
            builds.extend(page["builds"])
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        return builds

    async def log(self, build: str, replica: str) -> bytes:
        """GET /api/v1/builds/<id>/log/<replica>."""
        return await self._ask("GET", f"/api/v1/builds/{await self.full_id(build)}/log/{replica}")

    async def build_cases(self, build: str, slowest: int | None = None) -> dict[str, Any]:
        """GET /api/v1/builds/<id>/tests, all its pages in one."""
        path = f"/api/v1/builds/{await self.full_id(build)}/tests"
        query = {"limit": str(CASES_AT_ONCE)}
        if slowest is not None:
            query["slowest"] = str(slowest)
        found = await self._pages(path, query)
        found[0]["cases"] = [row for page in found for row in page["cases"]]
        return found[0]

    async def cases(self, repository: str, state: str | None, cases_max: int) -> list[Any]:
        """GET /api/v1/tests: the test cases of a repository, at most so many."""
        query = {"repository": repository, "limit": str(min(CASES_AT_ONCE, cases_max))}
        if state is not None:
            query["state"] = state
        found = await self._pages("/api/v1/tests", query, pages_max=-(-cases_max // CASES_AT_ONCE))
        return [case for page in found for case in page["cases"]][:cases_max]

    async def quarantined(self, repository: str) -> list[Any]:
        """GET /api/v1/tests: the test cases that the newest build's pipeline file quarantines."""
        query = urlencode({"repository": repository, "limit": "1"})
        found = _object(await self._ask("GET", f"/api/v1/tests?{query}"))
        cases = found.get("quarantined", [])
        return cases if isinstance(cases, list) else []

    async def case_history(self, sha256: str, repository: str | None) -> dict[str, Any]:
        """GET /api/v1/tests/<sha256>: a test case, and what builds saw of it."""
        query = "" if repository is None else f"?{urlencode({'repository': repository})}"
        return _object(await self._ask("GET", f"/api/v1/tests/{sha256}{query}"))

    async def case_report(self, build: str, replica: str | None) -> bytes:
        """GET /api/v1/builds/<id>/tests/report: the canonical report, agreed on or a replica's."""
        query = "" if replica is None else f"?{urlencode({'replica': replica})}"
        return await self._ask(
            "GET", f"/api/v1/builds/{await self.full_id(build)}/tests/report{query}"
        )

    async def _pages(
        self, path: str, query: Mapping[str, str], pages_max: int = PAGES_MAX
    ) -> list[dict[str, Any]]:
        """The pages of a list, each beginning after the one before."""
        pages: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while len(pages) < pages_max:
            asked = urlencode({**query, **after})
            pages.append(_object(await self._ask("GET", f"{path}?{asked}")))
            if pages[-1]["next"] is None:
                break
            after = {"after": str(pages[-1]["next"])}
        return pages

    async def inputs(self, build: str, find: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>/inputs, all its pages in one."""
        path = f"/api/v1/builds/{await self.full_id(build)}/inputs"
        found = await self._pages(path, {"find": find, "limit": str(INPUTS_AT_ONCE)})
        found[0]["inputs"] = [row for page in found for row in page["inputs"]]
        return {**found[0], "next": None}

    async def artifacts(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>/artifacts: what was agreed on; `build` is a whole id."""
        return _object(await self._ask("GET", f"/api/v1/builds/{build}/artifacts"))

    async def artifact(self, build: str, path: str, length: int, *, file: BinaryIO) -> str:
        """Write GET /api/v1/builds/<id>/artifacts/<path> to a file: its SHA-256 (hex)."""
        assert self._session is not None, "used outside its context"
        url = f"{self.url}/api/v1/builds/{build}/artifacts/{quote(path)}"
        # the gateway fetches the whole of it first, perhaps from several nodes
        seconds = ANSWER_TIMEOUT_SECONDS + length / ARTIFACT_BYTES_PER_SECOND_MIN
        try:
            status, digest = await save(
                self._session,
                HttpRequest(url=url, headers=self._shown),
                file,
                length=length,
                timeout_seconds=seconds,
            )
        except (NoAnswer, CannotWrite) as error:
            raise CommandFailed(f"{path}: {error}") from error
        if status != 200:
            answer = await self._answer("GET", url.removeprefix(self.url))
            raise CommandFailed(f"{self.url}: {_error_text(answer.data, answer.status)}")
        return digest

    async def attestation(self, build: str) -> bytes:
        """GET /api/v1/builds/<id>/attestation: the envelope, as JSON; `build` is a whole id."""
        return await self._ask("GET", f"/api/v1/builds/{build}/attestation")

    async def proof(self, build: str) -> bytes:
        """GET /api/v1/builds/<id>/proof, as JSON; `build` is a whole id."""
        return await self._ask("GET", f"/api/v1/builds/{build}/proof")

    async def log_piece(
        self, build: str, replica: str, *, offset: int, wait_seconds: int
    ) -> ServedPiece | None:
        """GET /api/v1/builds/<id>/replicas/<replica>/log; None: ask again in a moment."""
        query = f"from={offset}&wait={wait_seconds}"
        path = f"/api/v1/builds/{build}/replicas/{replica}/log?{query}"
        answer = await self._answer("GET", path)
        if answer.status in ASK_AGAIN_STATUSES:
            return None
        if answer.status >= 400:
            raise CommandFailed(f"{self.url}: {_error_text(answer.data, answer.status)}")
        try:
            return read_piece(answer.headers, answer.data)
        except ValueError as error:
            raise CommandFailed(f"{self.url}: {error}; is that a gateway?") from error

    async def log_times(self, build: str, replica: str) -> bytes:
        """GET /api/v1/builds/<id>/replicas/<replica>/log/times; empty: there are none."""
        answer = await self._answer("GET", f"/api/v1/builds/{build}/replicas/{replica}/log/times")
        if answer.status == 404:
            return b""
        if answer.status >= 400:
            raise CommandFailed(f"{self.url}: {_error_text(answer.data, answer.status)}")
        return answer.data

    async def cancel(self, build: str, reason: str | None) -> dict[str, Any]:
        """POST /api/v1/builds/<id>/cancel: the build."""
        return await self._change(build, "cancel", {} if reason is None else {"reason": reason})

    async def rebuild(self, build: str, *, is_cold: bool = False) -> dict[str, Any]:
        """POST /api/v1/builds/<id>/rebuild: {"build", "url"}."""
        return await self._change(build, "rebuild", {"cold": True} if is_cold else {})

    async def approve(self, build: str) -> dict[str, Any]:
        """POST /api/v1/builds/<id>/approve: the build."""
        return await self._change(build, "approve", {})

    async def note(self, build: str, text: str) -> dict[str, Any]:
        """POST /api/v1/builds/<id>/notes: {"detail"}."""
        return await self._change(build, "notes", {"text": text})

    async def notes(self, build: str) -> dict[str, Any]:
        """GET /api/v1/builds/<id>/notes: {"changes", "waiting"}."""
        return _object(await self._ask("GET", f"/api/v1/builds/{build}/notes"))

    async def audit(self, events_max: int) -> list[Any]:
        """GET /api/v1/audit: who changed what, the newest first."""
        query = {"limit": str(min(CASES_AT_ONCE, events_max))}
        found: list[Any] = []
        before: dict[str, str] = {}
        while len(found) < events_max:
            page = _object(await self._ask("GET", f"/api/v1/audit?{urlencode(query | before)}"))
            found.extend(page["events"])
            if page["next"] is None:
                break
            before = {"before": str(page["next"])}
        return found[:events_max]

    async def _change(
        self, build: str, what: str, body: Mapping[str, str | bool]
    ) -> dict[str, Any]:
        return await self._post(f"/api/v1/builds/{build}/{what}", body)

    async def _post(self, path: str, body: Mapping[str, str | bool]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        return _object(
            await self._ask("POST", path, body=json.dumps(body).encode(), headers=headers)
        )

    async def append(self, text: str) -> dict[str, Any]:
        """POST /api/v1/append: the journal's digest and length."""
        return await self._post("/api/v1/append", {"text": text})

    async def full_id(self, build: str) -> str:
        """The id that begins with `build`; a whole one is not looked for."""
        text = build.lower()
        if len(text) == BUILD_ID_CHARACTERS and _BUILD_ID.fullmatch(text):
            return text
        return str((await self.build(text))["id"])

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] = {},
        not_found: int = EXIT_NO_ANSWER,
    ) -> bytes:
        """not_found: the exit code where the gateway has no such thing."""
        answer = await self._answer(method, path, body=body, headers=headers)
        if answer.status >= 400:
            code = not_found if answer.status == 404 else EXIT_NO_ANSWER
            raise CommandFailed(f"{self.url}: {_error_text(answer.data, answer.status)}", code)
        return answer.data

    async def _answer(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] = {},
    ) -> Answer:
        assert self._session is not None, "used outside its context"
        try:
            return await ask(
                self._session,
                HttpRequest(
                    method=method,
                    url=self.url + path,
                    headers={**self._shown, **headers},
                    body=body,
                ),
                AnswerBounds(ANSWER_BYTES_MAX, ANSWER_TIMEOUT_SECONDS),
            )
        except NotInTime as error:
            raise CommandFailed(
                f"the gateway at {self.url} did not answer in {ANSWER_TIMEOUT_SECONDS:g} s",
                EXIT_TOO_LATE,
            ) from error
        except NoAnswer as error:
            raise CommandFailed(
                f"no gateway answers at {self.url} ({error}); "
                "start it with scripts/startClient.sh, or name it with --gateway"
            ) from error


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a command's work to its end."""
    return asyncio.run(work)


def _object(data: bytes) -> dict[str, Any]:
    try:
        return decode_json(data, dict[str, Any])
    except NoAnswer as error:
        raise CommandFailed("the answer is not a JSON object; is that a gateway?") from error


def _error_text(data: bytes, status: int) -> str:
    try:
        return str(decode_json(data, dict[str, Any])["error"])
    except (NoAnswer, KeyError):
        return f"answered with status {status}"
