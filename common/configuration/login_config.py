"""`login:` of client.yml: who vouches for people, and what each of them may do.

A provider is an OpenID Connect one (Gitea, GitLab, Keycloak, any other), GitHub, which has OAuth
alone, or a proxy in front of the gateway that names the person in a header.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from common.address import Address
from common.config_error import ConfigError, nearest

ProviderKind = Literal["gitea", "github", "gitlab", "keycloak", "oidc", "proxy"]

GITHUB = "https://github.com"
RULES_MAX = 100
PROXIES_MAX = 20
SCOPES_MAX = 20

# Whom a rule means. A name or a group may have spaces inside; neither has controls.
Rule = Annotated[
    str,
    msgspec.Meta(
        max_length=400,
        pattern=r"^(any|(user|group):[^\x00-\x1f\x7f]{1,256}|claim:[A-Za-z0-9_.:/-]{1,100}=[^\x00-\x1f\x7f]{1,256})\Z",
        description="any, user:NAME, group:NAME or claim:NAME=VALUE, in up to 400 characters",
    ),
]
IssuerUrl = Annotated[
    str,
    msgspec.Meta(
        max_length=256,
        pattern=r"^https?://[!-?A-~]+\Z",
        description="http:// or https://, and no login, query or fragment",
    ),
]
ClientId = Annotated[
    str,
    msgspec.Meta(
        max_length=256, pattern=r"^[!-~]+\Z", description="up to 256 visible ASCII characters"
    ),
]
ClaimName = Annotated[
    str,
    msgspec.Meta(
        max_length=100, pattern=r"^[A-Za-z0-9_.:/-]+\Z", description="the name of a claim"
    ),
]
Scope = Annotated[
    str,
    msgspec.Meta(max_length=100, pattern=r"^[!#-\[\]-~]+\Z", description="the name of a scope"),
]
HeaderName = Annotated[
    str,
    msgspec.Meta(
        max_length=100,
        pattern=r"^[A-Za-z0-9-]+\Z",
        description="the name of a header: letters, digits, '-'",
    ),
]
Rules = tuple[Rule, ...]

# Where each kind of provider says which groups a person is in (docs/OPERATING.md).
_GROUPS_CLAIMS = {"gitlab": "groups_direct"}
_SCOPES = {
    "gitea": ("openid", "profile", "groups"),
    "gitlab": ("openid", "profile"),
    "keycloak": ("openid", "profile"),
    "oidc": ("openid", "profile"),
    "github": ("read:org",),
}


class RoleRules(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what: a person has a role if one of its rules means them."""

    cancel: Rules = ()
    rebuild: Rules = ()
    approve: Rules = ()
    note: Rules = ()

    @property
    def all_rules(self) -> Rules:
        """The rules of all roles."""
        return (*self.cancel, *self.rebuild, *self.approve, *self.note)


class RepositoryRoles(RoleRules, frozen=True, kw_only=True):
    """The same for one repository, in place of what holds for all."""

    repository: str


class LoginConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How people log in, and which roles they have."""

    provider: ProviderKind
    # of all repositories, but for those that have an entry of their own
    roles: RoleRules = RoleRules()
    repository_roles: tuple[RepositoryRoles, ...] = ()
    # whose identity provider it is; for github that of an own server
    issuer: IssuerUrl | None = None
    client_id: ClientId | None = None
    client_secret_file: Path | None = None
    # authorities that the provider's certificate is checked with; None: the machine's own
    ca_file: Path | None = None
    # None: what this kind of provider needs
    scopes: tuple[Scope, ...] | None = None
    # which claims have a person's name, and their groups
    name_claim: ClaimName = "preferred_username"
    groups_claim: ClaimName | None = None
    # how long a session lasts; groups are those of its beginning
    session_hours: Annotated[float, msgspec.Meta(gt=0, le=720)] = 12
    # of a proxy: its headers, and the addresses (or networks) that it asks from
    user_header: HeaderName | None = None
    groups_header: HeaderName | None = None
    proxies: tuple[str, ...] = ()

    @property
    def is_proxy(self) -> bool:
        """Whether a proxy names the person in a header; else there are sessions."""
        return self.provider == "proxy"

    @property
    def wanted_scopes(self) -> tuple[str, ...]:
        """What the provider is asked for."""
        return self.scopes if self.scopes is not None else _SCOPES[self.provider]

    @property
    def groups_in(self) -> str:
        """The claim with a person's groups."""
        return self.groups_claim or _GROUPS_CLAIMS.get(self.provider, "groups")

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The addresses that the proxy asks from."""
        return tuple(ipaddress.ip_network(text) for text in self.proxies)

    @property
    def claims_named(self) -> frozenset[str]:
        """The claims that rules look at."""
        rules = [*self.roles.all_rules]
        for entry in self.repository_roles:
            rules.extend(entry.all_rules)
        return frozenset(
            rule.removeprefix("claim:").partition("=")[0]
            for rule in rules
            if rule.startswith("claim:")
        )


def check_login(
    login: LoginConfig,
    file: Path,
    *,
    listen: Address,
    public_url: str | None,
    repositories: Sequence[str],
) -> None:
    """Refuse a `login:` that cannot work, or that lets in whom it does not mean.

    repositories: the URLs of the gateway's. Raises ConfigError.
    """
    if login.is_proxy:
        _check_proxy(login, file)
    else:
        _check_provider(login, file, listen=listen, public_url=public_url)
    _check_roles(login, file, repositories)


def _check_proxy(login: LoginConfig, file: Path) -> None:
    for key in ("issuer", "client_id", "client_secret_file", "ca_file", "scopes", "groups_claim"):
        if getattr(login, key) is not None:
            raise ConfigError.at(
                file, f"login.{key}", "is for a provider that is asked", "remove it"
            )
    if login.user_header is None:
        raise ConfigError.at(
            file, "login.user_header", "is missing", "name the header in which the proxy says who"
        )
    if not 1 <= len(login.proxies) <= PROXIES_MAX:
        raise ConfigError.at(
            file,
            "login.proxies",
            f"holds {len(login.proxies)} addresses",
            f"1 to {PROXIES_MAX} are allowed: from others the header counts for nothing",
        )
    for index, text in enumerate(login.proxies):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError.at(
                file, f"login.proxies[{index}]", str(error), "as 127.0.0.1 or 10.1.0.0/24"
            ) from error
        if network.prefixlen == 0:
            raise ConfigError.at(
                file, f"login.proxies[{index}]", "is every address", "name the proxy's own"
            )


def _check_provider(
    login: LoginConfig, file: Path, *, listen: Address, public_url: str | None
) -> None:
    for key in ("user_header", "groups_header", "proxies"):
        if getattr(login, key):
            raise ConfigError.at(
                file, f"login.{key}", f"is not for {login.provider}", "use provider: proxy"
            )
    for key in ("client_id", "client_secret_file"):
        if getattr(login, key) is None:
            raise ConfigError.at(
                file, f"login.{key}", "is missing", f"{login.provider} gives it to an application"
            )
    if login.issuer is None and login.provider != "github":
        raise ConfigError.at(
            file, "login.issuer", "is missing", "the provider's address, https://... is needed"
        )
    if login.issuer is not None:
        _check_issuer(login.issuer, file)
    if login.scopes is not None:
        if len(login.scopes) > SCOPES_MAX:
            raise ConfigError.at(
                file, "login.scopes", f"holds {len(login.scopes)}", f"{SCOPES_MAX} are allowed"
            )
        if login.provider != "github" and "openid" not in login.scopes:
            raise ConfigError.at(file, "login.scopes", "lacks openid", "add openid")
    if public_url is None and not listen.is_loopback:
        raise ConfigError.at(
            file,
            "public_url",
            "is missing, and with `login:` the provider sends people back to it",
            "the address by which browsers reach this gateway, https://... is needed",
        )
    if public_url is not None and not _is_protected(public_url):
        raise ConfigError.at(
            file,
            "public_url",
            f"{public_url} is without TLS, so others could read the sessions of people who log in",
            "https:// is needed with `login:`",
        )


def _check_issuer(issuer: str, file: Path) -> None:
    parts = urlsplit(issuer)
    if parts.query or parts.fragment or not parts.hostname:
        raise ConfigError.at(
            file, "login.issuer", f"{issuer} is no issuer", "https://HOST/PATH is needed"
        )
    if not _is_protected(issuer):
        raise ConfigError.at(
            file,
            "login.issuer",
            f"{issuer} is without TLS, so anybody between could pose as anybody",
            "https:// is needed but on this machine",
        )


def _is_protected(url: str) -> bool:
    """Whether nobody else reads what goes there: by TLS, or as it stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_roles(login: LoginConfig, file: Path, repositories: Sequence[str]) -> None:
    named = [entry.repository for entry in login.repository_roles]
    for index, entry in enumerate(login.repository_roles):
        key = f"login.repository_roles[{index}].repository"
        if entry.repository not in repositories:
            raise ConfigError.at(
                file,
                key,
                f"{entry.repository} is not on the list{nearest(entry.repository, repositories)}",
                "the url of an entry of repositories is needed",
            )
        if named.index(entry.repository) != index:
            raise ConfigError.at(file, key, f"{entry.repository} is there twice", "list it once")
    every = [login.roles, *login.repository_roles]
    if not any(rules.all_rules for rules in every):
        raise ConfigError.at(
            file, "login.roles", "gives nobody a role", "as approve: [group:maintainers]"
        )
    for rules in every:
        if len(rules.all_rules) > RULES_MAX:
            raise ConfigError.at(
                file,
                "login.roles",
                f"holds {len(rules.all_rules)} rules",
                f"{RULES_MAX} are allowed for one repository",
            )
    if login.claims_named and login.provider in ("github", "proxy"):
        raise ConfigError.at(
            file,
            "login.roles",
            f"looks at claims, and {login.provider} tells none",
            "use user:NAME and group:NAME",
        )
