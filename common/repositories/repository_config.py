"""A repository as the configuration files list it: for a node, and for a gateway.

What a forge may ask for and who reports to it is a setting of each operator; nothing in here is
replicated, and nothing in here comes from a repository.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from common.address import Address
from common.config_error import ConfigError
from common.forges.registry import ForgeKind, statuses_of
from common.pipeline.pipeline_values import is_image_name
from common.repositories.git_environment import GitAccess
from common.repositories.schedule import Schedule, check_schedules

EventKind = Literal["push", "tag", "pull_request", "merge_group"]
PullRequests = Literal["same_repository", "all", "none"]
Report = Literal["gateway", "replicas", "none"]

GLOBS_MAX = 64
ALIASES_MAX = 16
GLOB_CHARACTERS_MAX = 255

FORGE_NAMES = ", ".join(get_args(ForgeKind))

Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=GLOB_CHARACTERS_MAX)]


class RepositoryEntry(msgspec.Struct, frozen=True):
    """A repository that may be built.

    Fields without a comment: see common.repositories.git_environment.GitAccess.
    """

    # as it is in requests; a path becomes file:///..., so it is the same text everywhere
    url: str
    # where this operator really fetches it from (a mirror of its own), or None
    fetch_url: str | None = None
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    https_token_file: Path | None = None
    https_user: str = "git"
    ca_file: Path | None = None
    # what hosts it; then its webhooks and its commit statuses are understood
    forge: ForgeKind | None = None
    # the forge's API; None means that of github.com or gitlab.com
    api_url: str | None = None
    # how that API calls it, `owner/name`; None means what the path of `url` says
    project: str | None = None
    # a token that may post commit statuses; readable by its owner alone
    status_token_file: Path | None = None
    # the repositories in whose builds it may be a submodule. None: in all; but in none if it is
    # fetched with a login or from a disk. For nodes alone
    submodule_of: tuple[str, ...] | None = None
    # images that its builds may use as they are on this operator's engine, by name. For nodes alone
    local_images: tuple[str, ...] = ()
    # the branches whose builds write caches, as globs. None: the one that the server's HEAD names;
    # an empty list: none, so nothing is cached. For nodes alone
    cache_branches: tuple[Glob, ...] | None = None

    @property
    def fetched_from(self) -> str:
        """The URL to give to git."""
        return self.fetch_url or self.url

    @property
    def access(self) -> GitAccess:
        """How its server is logged in to."""
        return GitAccess(
            ssh_key_file=self.ssh_key_file,
            known_hosts_file=self.known_hosts_file,
            https_token_file=self.https_token_file,
            https_user=self.https_user,
            ca_file=self.ca_file,
        )

    @property
    def needs_consent(self) -> bool:
        """Whether this operator can fetch it where strangers cannot: as somebody who is let in, or
        from a disk."""
        url = self.fetched_from
        if self.ssh_key_file is not None or self.https_token_file is not None:
            return True
        if "://" not in url:
            # a path, or host:path over ssh, which without a key of the entry takes the user's own
            return True
        parts = urlsplit(url)
        return parts.scheme in ("file", "ssh") or "@" in parts.netloc


class GatewayRepository(RepositoryEntry, frozen=True):
    """A repository of client.yml: also what may ask for builds of it, and which."""

    # other URLs by which webhooks may call it (ssh, https, html)
    aliases: tuple[str, ...] = ()
    # up to four secrets, one per line, readable by their owner alone
    webhook_secret_file: Path | None = None
    # whether anybody who reaches the gateway may ask for builds
    unsigned_allowed: bool = False
    # what of a forge's events builds; the others are answered 200 and ignored
    events: tuple[EventKind, ...] = ("push", "tag", "pull_request")
    # globs; pushes to other branches and pull requests against them build nothing
    branches: tuple[Glob, ...] = ()
    # whose are built at once; the others wait for an operator's approval
    pull_requests: PullRequests = "same_repository"
    # who posts commit statuses
    report: Report = "none"
    # whether a newer push cancels the builds of the same ref that are under way
    supersede: bool = False
    # how many builds of it may be under way or wait; beyond it the answer is 429
    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500
    # how many of them the network is given at once; the others wait
    open_builds_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000
    # what is built at times of the day or week, whatever was pushed
    schedules: tuple[Schedule, ...] = ()


class StatusTarget(msgspec.Struct, frozen=True):
    """Where the statuses of one repository go: forge, API, project, and the token's file."""

    forge: ForgeKind
    api_url: str
    project: str
    token_file: Path


def status_target(entry: RepositoryEntry) -> StatusTarget | None:
    """Where this repository's statuses go; None where no token is configured.

    Call it with an entry that `check_status` let pass.
    """
    if entry.status_token_file is None or entry.forge is None:
        return None
    api_url = entry.api_url or _public_api(entry)
    project = entry.project or project_of(entry.url)
    assert api_url is not None, "checked when it was read"
    assert project is not None, "checked when it was read"
    return StatusTarget(entry.forge, api_url.rstrip("/"), project, entry.status_token_file)


def check_status(entry: RepositoryEntry, file: Path, key: str) -> None:
    """Refuse what cannot report, or would send a token in the clear. Raises ConfigError."""
    if entry.api_url is not None:
        _check_api_url(entry.api_url, file, f"{key}.api_url")
    if entry.status_token_file is None:
        return
    if entry.forge is None:
        raise ConfigError.at(
            file, f"{key}.forge", "is missing", f"status_token_file needs {FORGE_NAMES}"
        )
    if entry.api_url is None and _public_api(entry) is None:
        raise ConfigError.at(
            file,
            f"{key}.api_url",
            "is missing",
            "the forge's API is needed, as in https://forge.example.org/api/v1 (Gitea, Forgejo), "
            ".../api/v4 (GitLab), .../api/v3 (GitHub Enterprise), .../rest/api/latest (Bitbucket "
            "Data Center)",
        )
    project = entry.project or project_of(entry.url)
    if project is None or not all(project.split("/")) or "/" not in project:
        raise ConfigError.at(
            file, f"{key}.project", f"is {project!r}", "the forge's owner/name is needed"
        )


def check_local_images(entry: RepositoryEntry, file: Path, key: str) -> None:
    """Refuse what is no image's name. Raises ConfigError."""
    for place, name in enumerate(entry.local_images):
        if not is_image_name(name) or "@" in name:
            raise ConfigError.at(
                file,
                f"{key}.local_images[{place}]",
                f"{name!a} is not an image's name with a tag",
                "a name as pipelines have it is needed, as in team/tools:1",
            )


def check_gateway_repositories(entries: Sequence[GatewayRepository], file: Path) -> None:
    """Refuse what no webhook could use, or what would be ambiguous. Raises ConfigError."""
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        key = f"repositories[{index}]"
        if entry.webhook_secret_file is None and not entry.unsigned_allowed:
            raise ConfigError.at(
                file,
                key,
                "has neither webhook_secret_file nor unsigned_allowed: true",
                "nobody could ask for a build of it; a secret is needed where others than you "
                "reach the gateway",
            )
        if entry.report != "none" and entry.forge is None:
            raise ConfigError.at(
                file, f"{key}.forge", "is missing", f"report: {entry.report} needs it"
            )
        if entry.report == "gateway" and entry.status_token_file is None:
            raise ConfigError.at(
                file, f"{key}.status_token_file", "is missing", "report: gateway needs it"
            )
        for name, is_set in (
            ("submodule_of", entry.submodule_of is not None),
            ("local_images", bool(entry.local_images)),
        ):
            if is_set:
                raise ConfigError.at(
                    file, f"{key}.{name}", "is for nodes", "leave it out: a gateway builds nothing"
                )
        if not entry.events:
            raise ConfigError.at(file, f"{key}.events", "is empty", "at least one is needed")
        check_schedules(entry.schedules, file, key)
        for name, values, most in (
            ("branches", entry.branches, GLOBS_MAX),
            ("aliases", entry.aliases, ALIASES_MAX),
        ):
            if len(values) > most:
                raise ConfigError.at(
                    file, f"{key}.{name}", f"has {len(values)} items", f"at most {most} are allowed"
                )
        for url in (entry.url, *entry.aliases):
            if names.setdefault(url, index) != index:
                raise ConfigError.at(
                    file, f"{key}.aliases", f"{url} is another repository's", "list each once"
                )


def project_of(url: str) -> str | None:
    """`owner/name` (or deeper) from a clone URL; None where its path has no two parts."""
    if "://" in url:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return None
        path = parts.path
    else:
        path = url.partition(":")[2]
    path = path.strip("/").removesuffix(".git")
    return path if "/" in path else None


def _public_api(entry: RepositoryEntry) -> str | None:
    url = entry.url
    host = urlsplit(url).hostname if "://" in url else url.partition("@")[2].partition(":")[0]
    return None if entry.forge is None else statuses_of(entry.forge).PUBLIC_APIS.get(host or "")


def _check_api_url(url: str, file: Path, key: str) -> None:
    """A token goes there: by TLS, or to this machine."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError.at(file, key, f"is {url!r} ({error})", "a URL is needed") from error
    is_plain_url = parts.hostname and not (parts.query or parts.fragment or parts.username)
    is_safe = parts.scheme == "https" or (
        parts.scheme == "http" and Address(parts.hostname or "", port).is_loopback
    )
    if not is_plain_url or not is_safe:
        raise ConfigError.at(
            file, key, f"is {url!r}", "https://host/path is needed (http only on this machine)"
        )
