"""Commit statuses at GitHub (FACTS 3.1): POST /repos/{owner}/{repo}/statuses/{sha}."""

from collections.abc import Mapping
from urllib.parse import quote

from common.statuses.status import (
    USER_AGENT,
    CommitStatus,
    Meaning,
    State,
    StatusRequest,
    common_meaning,
    cut,
    json_body,
)

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


def request(api_url: str, project: str, token: str, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: without a slash at its end."""
    return StatusRequest(
        url=f"{api_url}/repos/{quote(project)}/statuses/{status.commit}",
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "X-GitHub-Api-Version": API_VERSION,
        },
        body=json_body(
            {
                "state": STATES[status.state],
                "target_url": status.target_url,
                "description": cut(status.description, DESCRIPTION_CHARACTERS_MAX),
                "context": status.context,
            }
        ),
    )


def meaning(status: int, headers: Mapping[str, str], data: bytes, now: float) -> Meaning:
    """What GitHub's answer means. A 403 with a rate limit is no wrong token."""
    return common_meaning(status, headers, data, now, SCOPE)
