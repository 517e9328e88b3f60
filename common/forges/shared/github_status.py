"""The commit statuses of GitHub, and of the forges that copied its API. Pure.

All take POST /repos/{owner}/{repo}/statuses/{sha} (docs/FACTS.md); StatusDialect is what differs.
"""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from common.forges.shared.status import (
    USER_AGENT,
    CommitStatus,
    State,
    StatusRequest,
    cut,
    json_body,
)


class StatusDialect(msgspec.Struct, frozen=True):
    """How one of these forges wants a status."""

    # its word for each of our states
    states: Mapping[State, str]
    # it refuses a longer description
    description_characters_max: int
    # the word before the token in the header Authorization
    token_scheme: str
    # the header Accept
    accept: str
    # what else it wants
    headers: Mapping[str, str] = {}


def github_status_request(
    dialect: StatusDialect, api_url: str, project: str, *, token: str, status: CommitStatus
) -> StatusRequest:
    """The POST for this status. api_url: without a slash at its end."""
    return StatusRequest(
        url=f"{api_url}/repos/{quote(project)}/statuses/{status.commit}",
        headers={
            "Accept": dialect.accept,
            "Authorization": f"{dialect.token_scheme} {token}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **dialect.headers,
        },
        body=json_body(
            {
                "state": dialect.states[status.state],
                "target_url": status.target_url,
                "description": cut(status.description, dialect.description_characters_max),
                "context": status.context,
            }
        ),
    )
