"""Commit statuses at Bitbucket Cloud (docs/FACTS.md).

POST /repositories/{workspace}/{slug}/commit/{sha}/statuses/build. A status is known by its `key`,
of at most 40 characters.
"""

import hashlib
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
PUBLIC_APIS: Mapping[str, str] = {"bitbucket.org": "https://api.bitbucket.org/2.0"}
DESCRIPTION_CHARACTERS_MAX = 255
KEY_CHARACTERS_MAX = 40
# What is left of a longer key beside `~` and the beginning of its digest.
KEY_BEGINNING_CHARACTERS = 23
KEY_DIGEST_CHARACTERS = 16
SCOPE = "`repository:write` (an access token of the repository with Repositories: Write)"

STATES = {
    State.PENDING: "INPROGRESS",
    State.SUCCESS: "SUCCESSFUL",
    State.FAILURE: "FAILED",
    State.ERROR: "FAILED",
    State.CANCELLED: "STOPPED",
    State.SKIPPED: "STOPPED",
}


def key_of(context: str) -> str:
    """The key of a status; if its context is too long, no two have the same all the same."""
    if len(context) <= KEY_CHARACTERS_MAX:
        return context
    digest = hashlib.sha256(context.encode()).hexdigest()[:KEY_DIGEST_CHARACTERS]
    return f"{context[:KEY_BEGINNING_CHARACTERS]}~{digest}"


def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: with /2.0, without a slash at its end."""
    return StatusRequest(
        url=f"{api_url}/repositories/{quote(project)}/commit/{status.commit}/statuses/build",
        headers={
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
        },
        body=json_body(
            {
                "key": key_of(status.context),
                "state": STATES[status.state],
                "name": status.context,
                # it takes no status without one
                "url": status.target_url or api_url,
                "description": cut(status.description, DESCRIPTION_CHARACTERS_MAX),
                "refname": status.ref,
            }
        ),
    )


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What the answer means."""
    return common_meaning(status, headers, data, now=now, scope=SCOPE)
