"""Commit statuses at Gitea, Forgejo (docs/FACTS.md): POST /repos/{owner}/{repo}/statuses/{sha}."""

from collections.abc import Mapping

from common.forges.shared.github_status import StatusDialect, github_status_request
from common.forges.shared.status import (
    CommitStatus,
    Meaning,
    State,
    StatusRequest,
    common_meaning,
)

# Where the API of each public host is; elsewhere `api_url` says it.
PUBLIC_APIS: Mapping[str, str] = {}
DESCRIPTION_CHARACTERS_MAX = 255
SCOPE = "`write:repository`"

STATES = {
    State.PENDING: "pending",
    State.SUCCESS: "success",
    State.FAILURE: "failure",
    State.ERROR: "error",
    State.CANCELLED: "error",
    State.SKIPPED: "skipped",
}


DIALECT = StatusDialect(
    states=STATES,
    description_characters_max=DESCRIPTION_CHARACTERS_MAX,
    token_scheme="token",  # noqa: S106 - no token
    accept="application/json",
)


def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: with /api/v1, without a slash at its end."""
    return github_status_request(DIALECT, api_url, project, token=token, status=status)


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What the answer means."""
    return common_meaning(status, headers, data, now=now, scope=SCOPE)
