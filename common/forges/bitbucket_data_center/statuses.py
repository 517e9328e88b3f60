"""Commit statuses at Bitbucket Data Center (docs/FACTS.md).

POST /projects/{key}/repos/{slug}/commits/{sha}/builds.
"""

from collections.abc import Mapping
from urllib.parse import quote

from common.forges.shared.status import (
    USER_AGENT,
    CommitStatus,
    Meaning,
    State,
    StatusRequest,
    common_meaning,
    cut,
    json_body,
)

# Where the API of each public host is; elsewhere `api_url` says it.
PUBLIC_APIS: Mapping[str, str] = {}
DESCRIPTION_CHARACTERS_MAX = 255
SCOPE = "the permission `Repository write` (an HTTP access token)"
# What the path of an HTTPS clone URL begins with, before the project's key.
CLONE_PATH = "scm/"

STATES = {
    State.PENDING: "INPROGRESS",
    State.SUCCESS: "SUCCESSFUL",
    State.FAILURE: "FAILED",
    State.ERROR: "FAILED",
    State.CANCELLED: "CANCELLED",
    State.SKIPPED: "UNKNOWN",
}


def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: with /rest/api/latest, without a slash at its end."""
    key, _, slug = project.removeprefix(CLONE_PATH).partition("/")
    return StatusRequest(
        url=f"{api_url}/projects/{quote(key)}/repos/{quote(slug)}/commits/{status.commit}/builds",
        headers={
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
        },
        body=json_body(
            {
                "key": status.context,
                "state": STATES[status.state],
                "name": status.context,
                # it takes no status without one
                "url": status.target_url or api_url,
                "description": cut(status.description, DESCRIPTION_CHARACTERS_MAX),
            }
        ),
    )


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What the answer means."""
    return common_meaning(status, headers, data, now=now, scope=SCOPE)
