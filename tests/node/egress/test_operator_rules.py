"""What an operator grants."""

import pytest

from node.egress.operator_rules import OperatorRules, not_allowed

NAMED = ("pypi.org",)


@pytest.mark.parametrize(
    ("rules", "asked", "is_granted"),
    [
        (OperatorRules(False), NAMED, False),
        (OperatorRules(True), NAMED, True),
        (OperatorRules(False, ("pypi.org",)), NAMED, True),
        (OperatorRules(False, ("pypi.org",)), ("npmjs.org", "pypi.org"), False),
        (OperatorRules(True, ("npmjs.org",)), NAMED, False),
        (OperatorRules(True, ()), NAMED, False),
        (OperatorRules(True, ()), True, True),
        (OperatorRules(False, ("*",)), True, False),
        (OperatorRules(True, ("*",)), False, False),
        (OperatorRules(True), (), False),
    ],
)
def test_what_is_granted(
    rules: OperatorRules, asked: bool | tuple[str, ...], is_granted: bool
) -> None:
    assert rules.grants(asked) is is_granted


def test_an_operators_refusal_names_the_setting() -> None:
    assert not_allowed(True) == "allows none (network_allowed)"
    told = not_allowed(("a.org", "b.org", "c.org", "d.org"))
    assert told == "does not allow a.org, b.org, c.org, ... (network_hosts, network_allowed)"
