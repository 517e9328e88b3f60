"""Commit statuses at GitLab (docs/FACTS.md): POST /projects/:id/statuses/:sha.

A 409 is a concurrent update of the same commit: tried again. To be told the state that it has
already, which happens after an answer that was lost, is an error to GitLab and none to us.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote

from common.forges.shared.status import (
    USER_AGENT,
    CommitStatus,
    Meaning,
    Posted,
    State,
    StatusRequest,
    common_meaning,
    cut,
    json_body,
)

# Where the API of each public host is; elsewhere `api_url` says it.
PUBLIC_APIS: Mapping[str, str] = {"gitlab.com": "https://gitlab.com/api/v4"}
DESCRIPTION_CHARACTERS_MAX = 255
SCOPE = "the scope `api`, of a member with the role Developer or more"

STATES = {
    State.PENDING: "pending",
    State.SUCCESS: "success",
    State.FAILURE: "failed",
    State.ERROR: "failed",
    State.CANCELLED: "canceled",
    State.SKIPPED: "skipped",
}

_SAME_STATE = re.compile(rb"Cannot transition status via :(\w+) from :(\w+)")
# What GitLab's state machine calls the way to each state.
_ENTERED_BY = {
    b"enqueue": b"pending",
    b"run": b"running",
    b"success": b"success",
    b"drop": b"failed",
    b"cancel": b"canceled",
    b"skip": b"skipped",
}


def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
    """The POST for this status. api_url: with /api/v4, without a slash at its end."""
    return StatusRequest(
        url=f"{api_url}/projects/{quote(project, safe='')}/statuses/{status.commit}",
        headers={
            "Accept": "application/json",
            "Content-Type": "application/json",
            "PRIVATE-TOKEN": token,
            "User-Agent": USER_AGENT,
        },
        body=json_body(
            {
                "state": STATES[status.state],
                "ref": status.ref,
                "name": status.context,
                "target_url": status.target_url,
                "description": cut(status.description, DESCRIPTION_CHARACTERS_MAX),
            }
        ),
    )


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What GitLab's answer means."""
    found = _SAME_STATE.search(data) if status == 400 else None
    if found is not None and _ENTERED_BY.get(found[1]) == found[2]:
        return Posted()
    return common_meaning(status, headers, data, now=now, scope=SCOPE)
