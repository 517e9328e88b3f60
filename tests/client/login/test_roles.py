"""client.login.roles: who may do what, by the rules of the configuration."""

from typing import Any

import pytest

from client.login.person import GROUPS_MAX, NoPerson, Person, make_person
from client.login.roles import Role, Roles, means
from common.configuration.login_config import LoginConfig, RepositoryRoles, RoleRules

ANA = Person("1", "ana", ("maintainers",), {"email_verified": "true"})
BO = Person("2", "bo", ("developers",))
ONE, TWO = "https://example.org/one", "https://example.org/two"


def roles(**named: Any) -> Roles:
    return Roles(LoginConfig(provider="oidc", **named))


@pytest.mark.parametrize(
    ("rule", "is_meant"),
    [
        ("any", True),
        ("user:ana", True),
        ("user:Ana", False),
        ("user:maintainers", False),
        ("group:maintainers", True),
        ("group:ana", False),
        ("group:maintainer", False),
        ("claim:email_verified=true", True),
        ("claim:email_verified=tru", False),
        ("claim:missing=None", False),
    ],
)
def test_a_rule_means_whom_it_names_exactly(rule: str, is_meant: bool) -> None:
    assert means(rule, ANA) is is_meant


def test_a_role_gives_no_other_role() -> None:
    found = roles(roles=RoleRules(approve=("group:maintainers",), note=("any",)))
    assert [role for role in Role if found.may(ANA, role, ONE)] == [Role.APPROVE, Role.NOTE]
    assert [role for role in Role if found.may(BO, role, ONE)] == [Role.NOTE]
    for role in Role:
        only = roles(roles=RoleRules(**{str(role): ("user:bo",)}))
        assert [each for each in Role if only.may(BO, each, ONE)] == [role]
        assert not any(only.may(ANA, each, ONE) for each in Role)


def test_a_repository_with_rules_of_its_own_has_no_others() -> None:
    found = roles(
        roles=RoleRules(cancel=("any",)),
        repository_roles=(RepositoryRoles(repository=ONE, approve=("user:bo",)),),
    )
    assert found.may(BO, Role.APPROVE, ONE)
    assert not found.may(BO, Role.CANCEL, ONE)
    assert found.may(BO, Role.CANCEL, TWO)
    assert not found.may(BO, Role.APPROVE, TWO)
    assert found.of(BO) == {None: (Role.CANCEL,), ONE: (Role.APPROVE,)}
    assert found.has_any(BO)


def test_whoever_no_rule_means_has_no_role() -> None:
    found = roles(roles=RoleRules(cancel=("user:ana",)))
    assert not found.has_any(BO)
    assert found.of(BO) == {None: ()}


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("", "ana"),
        (7, "ana"),
        ("x" * 256, "ana"),
        ("\ud800", "ana"),
        ("1", ""),
        ("1", None),
        ("1", "a\nb"),
        ("1", "ana\u202e"),
        ("1", "x" * 129),
        ("1", "\ud800"),
    ],
)
def test_what_names_nobody_is_nobody(subject: object, name: object) -> None:
    with pytest.raises(NoPerson):
        make_person(subject, name, groups=[])


def test_groups_and_claims_are_kept_as_far_as_rules_can_look_at_them() -> None:
    groups: list[object] = ["a", 7, "", "x" * 257, None, "a", *map(str, range(GROUPS_MAX))]
    claims = {"level": 3, "is": True, "list": ["a"], "long": "x" * 257, "text": "t"}
    person = make_person("1", "ana", groups=groups, claims=claims)
    assert len(person.groups) == GROUPS_MAX - 1
    assert person.groups[:2] == ("a", "0")
    assert person.claims == {"level": "3", "is": "true", "text": "t"}
    assert make_person("1", "ana", groups="maintainers").groups == ()
