"""Commit statuses at Gitea and Forgejo (FACTS 3.3): POST /repos/{owner}/{repo}/statuses/{sha}."""

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


def request(api_url: str, project: str, token: str, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: with /api/v1, without a slash at its end."""
    return StatusRequest(
        url=f"{api_url}/repos/{quote(project)}/statuses/{status.commit}",
        headers={
            "Accept": "application/json",
            "Authorization": f"token {token}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
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
    """What the answer means."""
    return common_meaning(status, headers, data, now, SCOPE)
