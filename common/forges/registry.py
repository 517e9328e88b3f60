"""The forges by the name that configurations give them.

A new forge is a folder beside this file, an entry in FORGES, and its name in ForgeKind.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from common.forges.bitbucket import statuses as bitbucket_statuses
from common.forges.bitbucket import webhooks as bitbucket_webhooks
from common.forges.bitbucket_data_center import statuses as data_center_statuses
from common.forges.bitbucket_data_center import webhooks as data_center_webhooks
from common.forges.gitea import statuses as gitea_statuses
from common.forges.gitea import webhooks as gitea_webhooks
from common.forges.github import statuses as github_statuses
from common.forges.github import webhooks as github_webhooks
from common.forges.gitlab import statuses as gitlab_statuses
from common.forges.gitlab import webhooks as gitlab_webhooks
from common.forges.plain import webhooks as plain_webhooks
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import ForgeEvent, Refusal
from common.forges.shared.signatures import SignatureCheck
from common.forges.shared.status import CommitStatus, Meaning, StatusRequest

# What `forge:` in a configuration file may say.
ForgeKind = Literal["github", "gitlab", "gitea", "bitbucket", "bitbucket_data_center"]
# What people and scripts send; it hosts nothing, so no configuration names it.
PLAIN = "plain"


class Webhooks(Protocol):
    """What each module `webhooks` has: the deliveries of one forge, from raw bytes to an event."""

    # A delivery with one of these headers is this forge's.
    EVENT_HEADERS: tuple[str, ...]
    # The headers that are looked at; each may be there only once.
    HEADERS: tuple[str, ...]

    def parse(self, delivery: Delivery) -> ForgeEvent | Refusal:
        """What the body asks for. Nothing of it is verified here. Never raises."""

    def check_signature(
        self, delivery: Delivery, secrets: tuple[bytes, ...], now: float
    ) -> SignatureCheck:
        """Whether the sender knows one of the secrets. now: seconds since 1970."""


class Statuses(Protocol):
    """What each module `statuses` has: the commit statuses of one forge."""

    # The API of each public host: `api_url` where a configuration gives none.
    PUBLIC_APIS: Mapping[str, str]

    def request(
        self, api_url: str, project: str, token: str, *, status: CommitStatus
    ) -> StatusRequest:
        """The POST for a status."""

    def meaning(
        self, status: int, headers: Mapping[str, str], data: bytes, *, now: float
    ) -> Meaning:
        """What the answer means."""


class Forge(msgspec.Struct, frozen=True):
    """One forge."""

    webhooks: Webhooks
    # None: nothing is posted to it
    statuses: Statuses | None = None


# Gitea and Forgejo send GitHub's headers as well as their own, so gitea comes before github.
# Bitbucket Cloud sends the header of Data Center beside its own.
FORGES = {
    "gitea": Forge(gitea_webhooks, gitea_statuses),
    "gitlab": Forge(gitlab_webhooks, gitlab_statuses),
    "github": Forge(github_webhooks, github_statuses),
    "bitbucket": Forge(bitbucket_webhooks, bitbucket_statuses),
    "bitbucket_data_center": Forge(data_center_webhooks, data_center_statuses),
    PLAIN: Forge(plain_webhooks),
}


def forge_of(delivery: Delivery) -> str:
    """The name of the forge whose headers these are; PLAIN if they are nobody's."""
    for name, forge in FORGES.items():
        if any(delivery.has(header) for header in forge.webhooks.EVENT_HEADERS):
            return name
    return PLAIN


def statuses_of(kind: ForgeKind) -> Statuses:
    """How commit statuses are posted to that forge."""
    statuses = FORGES[kind].statuses
    assert statuses is not None, "every forge that a configuration may name takes statuses"
    return statuses
