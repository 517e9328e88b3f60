"""Commit statuses at GitHub (docs/FACTS.md): POST /repos/{owner}/{repo}/statuses/{sha}."""

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
PUBLIC_APIS: Mapping[str, str] = {"github.com": "https://api.github.com"}
DESCRIPTION_CHARACTERS_MAX = 140
API_VERSION = "2022-11-28"
SCOPE = "`repo:status` (classic), or `Commit statuses: write` (fine-grained)"

# There is no state for "not built, as its author asked": `pending` says neither green nor red,
# so that [skip ci] is no way around a required check.
STATES = {
    State.PENDING: "pending",
    State.SUCCESS: "success",
    State.FAILURE: "failure",
    State.ERROR: "error",
    State.CANCELLED: "error",
    State.SKIPPED: "pending",
}


DIALECT = StatusDialect(
    states=STATES,
    description_characters_max=DESCRIPTION_CHARACTERS_MAX,
    token_scheme="Bearer",  # noqa: S106 - no token
    accept="application/vnd.github+json",
    headers={"X-GitHub-Api-Version": API_VERSION},
)


def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: without a slash at its end."""
    return github_status_request(DIALECT, api_url, project, token=token, status=status)


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What GitHub's answer means. A 403 with a rate limit is no wrong token."""
    return common_meaning(status, headers, data, now=now, scope=SCOPE)
