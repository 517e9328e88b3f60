"""What a person may do to builds of a repository, by the rules of `login:`."""

import enum

from client.login.person import Person
from common.configuration.login_config import LoginConfig, RoleRules


class Role(enum.StrEnum):
    """What can be allowed to people."""

    CANCEL = "cancel"
    REBUILD = "rebuild"
    APPROVE = "approve"
    NOTE = "note"


class Roles:
    """The rules of one gateway."""

    def __init__(self, login: LoginConfig) -> None:
        self._for_all = login.roles
        self._of_repository: dict[str, RoleRules] = {
            entry.repository: entry for entry in login.repository_roles
        }

    def may(self, person: Person, role: Role, repository: str) -> bool:
        """Whether one of the role's rules for that repository means the person.

        A repository with rules of its own has no others.
        """
        rules = self._of_repository.get(repository, self._for_all)
        return any(means(rule, person) for rule in _rules_of(rules, role))

    def has_any(self, person: Person) -> bool:
        """Whether they have some role for some repository."""
        every = (self._for_all, *self._of_repository.values())
        return any(means(rule, person) for rules in every for rule in rules.all_rules)

    def of(self, person: Person) -> dict[str | None, tuple[Role, ...]]:
        """The roles by repository, for those with rules of their own; None: for all others."""
        named: dict[str | None, RoleRules] = {None: self._for_all}
        named.update(self._of_repository)
        return {
            repository: tuple(
                role for role in Role if any(means(r, person) for r in _rules_of(rules, role))
            )
            for repository, rules in named.items()
        }


def means(rule: str, person: Person) -> bool:
    """Whether a rule means that person: by their exact name, group or claim."""
    if rule == "any":
        return True
    kind, _, wanted = rule.partition(":")
    if kind == "user":
        return person.name == wanted
    if kind == "group":
        return wanted in person.groups
    name, _, value = wanted.partition("=")
    return kind == "claim" and person.claims.get(name) == value


def _rules_of(rules: RoleRules, role: Role) -> tuple[str, ...]:
    match role:
        case Role.CANCEL:
            return rules.cancel
        case Role.REBUILD:
            return rules.rebuild
        case Role.APPROVE:
            return rules.approve
        case Role.NOTE:
            return rules.note
