"""The gateway's HTTP API, as the demo uses it."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.safe_text import log_text

ANSWER_SECONDS_MAX = 10
ANSWER_BYTES_MAX = 4 * 1024 * 1024

ABSTAINS = "abstains"
REFUSED = "refused"


class GatewayFailed(RuntimeError):
    """The gateway did not answer, or not as expected; the text says what it did instead."""


@dataclass(frozen=True)
class Found:
    """What one replica's ballot, or the verdict, says of a build."""

    outcome: str
    exit_code: int | None
    commit: str | None

    def __str__(self) -> str:
        return self.outcome if self.exit_code is None else f"{self.outcome} {self.exit_code}"


@dataclass(frozen=True)
class BuildView:
    """A build as the gateway shows it. ballots: by replica; verdict: None while undecided.

    dissenting: the replicas whose ballots, also late ones, contradict the verdict.
    """

    status: str
    commit: str | None
    ballots: Mapping[str, Found]
    verdict: Found | None
    dissenting: frozenset[str]


class Gateway:
    """A gateway at a URL on this machine."""

    def __init__(self, url: str) -> None:
        self._url = url
        # A proxy of the caller's environment must not be asked for an address of this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post_webhook(self, branch: str) -> str:
        """Ask for a build of a branch, as `curl -d` does; gives the build's id."""
        answer = self._ask("/webHook", json.dumps({"branch": branch}).encode())
        build = answer.get("build")
        if not isinstance(build, str):
            raise GatewayFailed(f"the gateway's answer names no build: {log_text(str(answer))}")
        return build

    def build(self, build: str) -> BuildView:
        """What the gateway knows of a build. Raises GatewayFailed."""
        answer = self._ask(f"/api/v1/builds/{build}", None)
        try:
            return read_build(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise GatewayFailed(f"not a build: {log_text(str(answer))} ({error!r})") from error

    def statuses(self) -> dict[str, dict[str, Any] | None]:
        """Each node's own status; None: it did not answer the gateway. Raises GatewayFailed."""
        rows = _list(self._ask("/api/v1/network", None).get("replicas"))
        return {str(row["replica"]): row["status"] for row in rows}

    def _ask(self, path: str, data: bytes | None) -> dict[str, object]:
        try:
            with self._opener.open(self._url + path, data, timeout=ANSWER_SECONDS_MAX) as response:
                answer = json.loads(response.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            text = log_text(error.read(2000).decode("utf-8", "replace").strip())
            raise GatewayFailed(f"{path}: the gateway answers {error.code}: {text}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GatewayFailed(f"{path}: no answer from the gateway ({error})") from error
        if not isinstance(answer, dict):
            raise GatewayFailed(f"{path}: not a gateway's answer: {log_text(str(answer))}")
        return answer


def read_build(answer: Mapping[str, object]) -> BuildView:
    """The JSON of GET /api/v1/builds/<id>. Raises KeyError, TypeError, ValueError."""
    commit = _text_or_none(answer["commit"])
    ballots: dict[str, Found] = {}
    for ballot in _list(answer["ballots"]):
        found = Found(
            ABSTAINS if ballot["abstains"] else str(ballot["outcome"]),
            _number_or_none(ballot["exit_code"]),
            _text_or_none(ballot["commit"]),
        )
        ballots[str(ballot["replica"])] = found
    value = answer["verdict"]
    if value is None:
        return BuildView(str(answer["status"]), commit, ballots, None, frozenset())
    if not isinstance(value, dict):
        raise TypeError("the verdict is no object")
    verdict = Found(str(value["outcome"]), _number_or_none(value["exit_code"]), commit)
    dissenting = frozenset(str(name) for name in _list(value["dissenting"]))
    return BuildView(str(answer["status"]), commit, ballots, verdict, dissenting)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _number_or_none(value: object) -> int | None:
    if value is None or isinstance(value, int):
        return value
    raise TypeError("a number is expected")
